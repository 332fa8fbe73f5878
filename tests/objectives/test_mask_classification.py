"""Mask2Former's loss as an objective. Its shapes and its precision, and what breaks it: tests/models."""

import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dgseg.models import Prediction
from dgseg.models.mask_loss import mask_loss
from dgseg.objectives import MaskClassification, Objectives, StepContext
from tests.models.harness import CLASSES, images, tiny
from tests.objectives.harness import batch, degenerate
from tests.ops.harness import run_ranks

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "mask2former_r50"
LAYERS, QUERIES, POINTS = 2, 6, 64


def truth() -> Tensor:
    labels = torch.randint(0, 5, (2, 64, 96), generator=torch.Generator().manual_seed(0)).byte()
    labels[0, :8], labels[1, -8:] = 254, 255
    return labels


def blocks() -> Tensor:
    """Three images with three, one and no class."""
    labels = torch.full((3, 16, 24), 255, dtype=torch.uint8)
    labels[0, :, :8], labels[0, :8, 8:], labels[0, 8:, 8:] = 0, 3, 4
    labels[1, 4:, 4:] = 2
    return labels


def layers(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return (2 * torch.randn(3, QUERIES, *shape, generator=generator, dtype=torch.float64)).to(dtype)

    return [(normal(CLASSES + 1), normal(4, 6)) for _ in range(LAYERS)]


def config() -> Any:
    return tiny(NAME, num_queries=QUERIES, train_num_points=POINTS).network.config


def predicted(made: list[tuple[Tensor, Tensor]]) -> Prediction:
    return Prediction(torch.zeros(len(made[0][0]), CLASSES, 4, 6), {}, [], {"layers": made})


def formula(options: Any, seed: int, step: int) -> dict[str, float]:
    """Of blocks() and layers(), in float64; every matching is the best of all that there are."""
    labels, made = blocks(), layers(torch.float64)
    present = [[c for c in range(CLASSES) if (image == c).any()] for image in labels]
    number = sum(map(len, present))
    weights = number + options.no_object_weight * (3 * QUERIES - number)
    total = {"class": 0.0, "mask": 0.0, "dice": 0.0}
    for n, classes in enumerate(present):
        torch.manual_seed((seed * 1_000_003 + step) * 1_000_003 + n)
        wanted = {c: (labels[n] == c).double() for c in classes}
        for class_logits, mask_logits in made:
            probability, masks = class_logits[n].softmax(-1), mask_logits[n]
            points = torch.rand(1, POINTS, 2).double()
            costs = [
                [
                    options.class_weight * -float(probability[query, c])
                    + options.mask_weight * float(crossed(at(masks[query], points[0]), at(wanted[c], points[0])))
                    + options.dice_weight * float(dice(at(masks[query], points[0]), at(wanted[c], points[0])))
                    for c in classes
                ]
                for query in range(QUERIES)
            ]
            chosen = min(
                itertools.permutations(range(QUERIES), len(classes)),
                key=lambda queries: sum(costs[query][k] for k, query in enumerate(queries)),
            )
            # Points are drawn for the masks in the order of their queries.
            pairs = sorted(zip(chosen, classes, strict=True))
            many = torch.rand(len(pairs), int(POINTS * options.oversample_ratio), 2).double()
            doubtful = int(POINTS * options.importance_sample_ratio)
            rest = torch.rand(len(pairs), POINTS - doubtful, 2).double()
            for i, (query, c) in enumerate(pairs):
                nearest = at(masks[query], many[i]).abs().argsort()[:doubtful]
                where = torch.cat([many[i][nearest], rest[i]])
                total["mask"] += float(crossed(at(masks[query], where), at(wanted[c], where))) / number
                total["dice"] += float(dice(at(masks[query], where), at(wanted[c], where))) / number
            for query in range(QUERIES):
                c = classes[chosen.index(query)] if query in chosen else CLASSES
                weight = options.no_object_weight if c == CLASSES else 1.0
                total["class"] -= weight * float(probability[query, c].log()) / weights
    return {part: getattr(options, f"{part}_weight") * value for part, value in total.items()}


def at(mask_HW: Tensor, points_P2: Tensor) -> Tensor:
    """Bilinear, zero outside; (0, 0) and (1, 1) are the mask's corners."""
    return F.grid_sample(mask_HW[None, None], 2 * points_P2[None, None] - 1, align_corners=False).flatten()


def crossed(logits: Tensor, wanted: Tensor) -> Tensor:
    p = logits.sigmoid()
    return -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()


def dice(logits: Tensor, wanted: Tensor) -> Tensor:
    p = logits.sigmoid()
    return 1 - (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)


def test_terms_are_the_formula() -> None:
    options = config()
    expected = formula(options, seed=3, step=4)
    found = mask_loss(options, predicted(layers()), blocks(), seed=3, step=4)
    assert {part: float(value) for part, value in found.items()} == pytest.approx(expected, rel=1e-5)


def test_terms_are_the_models_own_loss() -> None:
    model = tiny(NAME).train()
    objectives = Objectives({"masks": MaskClassification.Config(weight=0.5).build(model)})
    prediction, labels = model(images(NAME)), truth()
    terms = objectives({"original": prediction}, batch(labels, first_draw=8), StepContext(4, 10, None, 3))
    unknown_is_void = torch.where(labels == 254, torch.full_like(labels, 255), labels)
    expected = mask_loss(model.network.config, prediction, unknown_is_void, [8, 9], seed=3, step=4)
    assert list(terms) == ["masks/class", "masks/mask", "masks/dice"]
    for part, value in expected.items():
        torch.testing.assert_close(terms[f"masks/{part}"], 0.5 * value)
        torch.testing.assert_close(objectives.metrics()[f"masks/{part}"], value.detach())
    assert labels[0, 0, 0] == 254, "the batch keeps its own"
    sum(terms.values()).backward()
    assert model.network.class_predictor.weight.grad.abs().sum() > 0


# One image on the first rank, one and an empty one on the second: nothing but the whole has the right denominators.
SPLITS = {None: slice(0, 3), 0: slice(0, 1), 1: slice(1, 3)}


def run_step(rank: int | None, group: dist.ProcessGroup | None) -> dict[str, Any]:
    part = SPLITS[rank]
    mine = [(classes[part].requires_grad_(), masks[part].requires_grad_()) for classes, masks in layers()]
    found = batch(blocks()[part], first_draw=6 + (part.start or 0))
    objective = MaskClassification.Config().build(tiny(NAME, num_queries=QUERIES, train_num_points=POINTS))
    terms = objective({"original": predicted(mine)}, found, StepContext(2, 10, group, 3))
    leaves = [leaf for pair in mine for leaf in pair]
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaves)
    return {"terms": torch.stack(list(terms.values())).detach(), "gradients": list(gradients)}


def test_two_ranks_are_one_process() -> None:
    alone = run_step(None, None)
    first, second = run_ranks(run_step)
    torch.testing.assert_close((first["terms"] + second["terms"]) / 2, alone["terms"], rtol=1e-6, atol=1e-7)
    for one, two, expected in zip(first["gradients"], second["gradients"], alone["gradients"], strict=True):
        torch.testing.assert_close(torch.cat([one, two]) / 2, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("labels", degenerate().values(), ids=degenerate())
def test_degenerate_batches_have_finite_losses_and_gradients(labels: Tensor) -> None:
    model = tiny(NAME).train()
    objective = MaskClassification.Config().build(model)
    known = torch.where(labels < 254, labels % CLASSES, labels)
    total = sum(objective({"original": model(images(NAME))}, batch(known), StepContext(0, 1)).values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="take mask2former_r50, or"):
        MaskClassification.Config().build(tiny("bisenet_mini"))
