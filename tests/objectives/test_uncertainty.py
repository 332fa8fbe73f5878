"""Relative contrast, small-loss selection and maximised entropy, beside their formulas in loops."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgseg.data import Batch, Loader
from dgseg.data.augment import Pipeline
from dgseg.data.samplers import Uniform
from dgseg.data.streets import StreetsPairs
from dgseg.models import Aux, Prediction, build
from dgseg.objectives import (
    CrossEntropy,
    MaximizedEntropy,
    Objective,
    Objectives,
    RelativeContrast,
    SmallLossCrossEntropy,
    StepContext,
)
from dgseg.objectives.uncertainty import pixel_losses, smallest, uncertainty_pairs
from dgseg.ops.prototype_ema.order import pixel_keys
from dgseg.training.learner import Learner
from tests.objectives.harness import CLASSES, batch, context, degenerate, labels, prediction, stub
from tests.ops.harness import compiled, normal, run_ranks

pytestmark = pytest.mark.usefixtures("one_thread")


def scored(seed: int, N: int = 3) -> Prediction:
    u = normal(N, 8, 12, dtype=torch.float64, seed=seed + 70, scale=6.0).cpu().requires_grad_()
    return prediction(N, seed=seed, extra={"uncertainty": u})


def pair(truth: Tensor, other: Tensor, first_draw: int = 0) -> Batch:
    return replace(batch(truth, first_draw=first_draw), views={"augmented": batch(other, first_draw=first_draw)})


def views(seed: int = 0) -> tuple[dict[str, Prediction], Batch]:
    truth, other = labels(seed=1), labels(seed=1)
    truth[truth == 254] = 0
    other[1, 20:30, 20:40] = 254
    return {"original": scored(seed), "augmented": scored(seed + 10)}, pair(truth, other)


def oracle(outputs: dict[str, Prediction], found: Batch, at: Any, margins: tuple[float, float, float]) -> list[Tensor]:
    """From the formula, a pixel at a time."""
    both = [("original", found.labels), ("augmented", found.views["augmented"].labels)]
    u = []
    for name, truth in both:
        size = truth.shape[-2:]
        map_ = outputs[name].extra["uncertainty"]
        u.append(F.interpolate(map_[:, None], size=size, mode="bilinear", align_corners=False)[:, 0])
    N, H, W = both[0][1].shape

    def pixels(stream: int, wanted: Any) -> list[Tensor]:
        """Those wanted, in the order of their keys."""
        keyed = []
        for view, (_, truth) in enumerate(both):
            for n in range(N):
                keys = pixel_keys(2 * found.draws[n : n + 1] + view, at.seed, 4 * at.step + stream, H, W)[0].tolist()
                for p, label in enumerate(truth[n].flatten().tolist()):
                    if wanted(view, label):
                        keyed.append((keys[p], u[view][n, p // W, p % W]))
        return [value for _, value in sorted(keyed, key=lambda each: each[0])]

    terms = []
    for view, (first, second) in enumerate(((0, 1), (2, 3))):
        out = pixels(first, lambda _, label: label == 254)
        known = pixels(second, lambda v, label, view=view: v == view and label < 254)
        hinges = [(k + margins[view] - o).clamp(min=0) for o, k in zip(out, known, strict=False)]
        terms.append(torch.stack(hinges).mean())
    known = [
        (u[1][n, y, x] - u[0][n, y, x] - margins[2]).clamp(min=0)
        for n in range(N)
        for y in range(H)
        for x in range(W)
        if both[0][1][n, y, x] < 254 and both[1][1][n, y, x] < 254
    ]
    return [*terms, torch.stack(known).mean()]


@pytest.mark.parametrize("margins", [(10.0, 5.0, 5.0), (0.7, 0.5, 0.2)])
def test_the_three_terms_are_the_formula(margins: tuple[float, float, float]) -> None:
    outputs, found = views()
    before = found.views["augmented"].labels.clone()
    objective = RelativeContrast.Config(original=margins[0], augmented=margins[1], shift=margins[2], weight=2.0).build(
        stub()
    )
    at = context(step=3)
    terms = objective(outputs, found, at)
    assert list(terms) == ["unc/original", "unc/augmented", "unc/shift"]
    expected = oracle(outputs, found, at, margins)
    torch.testing.assert_close(torch.stack(list(terms.values())), 2 * torch.stack(expected), rtol=1e-12, atol=1e-14)
    leaves = [each.extra["uncertainty"] for each in outputs.values()]
    mine = torch.autograd.grad(sum(terms.values()), leaves, retain_graph=True)
    theirs = torch.autograd.grad(2 * sum(expected), leaves)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-14)
    assert torch.equal(found.views["augmented"].labels, before)
    metrics = objective.metrics()
    assert {"unc/u_out", "unc/u_in", "unc/u_aug", "unc/shift_unweighted"} <= set(metrics)


def test_pairs_are_a_function_of_seed_step_and_draw() -> None:
    outputs, found = views()
    objective = RelativeContrast.Config().build(stub())

    def value(at: Any, of: Batch = found) -> float:
        return float(objective(outputs, of, at)["unc/original"].detach())

    first = value(context(step=1))
    assert first == value(context(step=1))
    moved = pair(found.labels, found.views["augmented"].labels, first_draw=9)
    assert len({first, value(context(step=2)), value(context(step=1, seed=8)), value(context(step=1), moved)}) == 4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**32))
def test_pairs_are_one_to_one_until_one_side_ends(few: int, many: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(100, generator=g)
    first, second = torch.zeros(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    first[order[:few]], second[order[-many:] if many else order[:0]] = True, True
    keys = [torch.randint(0, 2**62, (100,), generator=g) for _ in range(2)]
    partners = uncertainty_pairs(first, second, *keys)
    chosen = (partners >= 0).nonzero()[:, 0]
    assert len(chosen) == min(few, many)
    assert bool(first[chosen].all())
    assert bool(second[partners[chosen]].all())
    assert len(set(partners[chosen].tolist())) == len(chosen)
    # Both sides in the order of their keys.
    by_key = chosen[keys[0][chosen].argsort()]
    assert torch.equal(partners[by_key], partners[by_key][keys[1][partners[by_key]].argsort()])


def test_terms_can_be_left_out_and_the_missing_is_named() -> None:
    outputs, found = views()
    only = RelativeContrast.Config(augmented=None, shift=None).build(stub())(outputs, found, context())
    assert list(only) == ["unc/original"]
    assert only["unc/original"] == RelativeContrast.Config().build(stub())(outputs, found, context())["unc/original"]
    with pytest.raises(ValueError, match="no term left"):
        RelativeContrast.Config(original=None, augmented=None, shift=None).build(stub())
    with pytest.raises(ValueError, match="a source of pairs"):
        RelativeContrast.Config().build(stub())({"original": outputs["original"]}, batch(found.labels), context())
    with pytest.raises(ValueError, match="uncertainty=True"):
        RelativeContrast.Config().build(stub())({"original": prediction(), "augmented": prediction()}, found, context())
    with pytest.raises(ValueError, match="uncertainty=True"):
        RelativeContrast.Config().build(build("bisenet_mini"))


def chosen_by_sorting(logits: Tensor, truth: Tensor, share: float) -> Tensor:
    """The labels that stay."""
    full = F.interpolate(logits.detach().double(), size=truth.shape[-2:], mode="bilinear", align_corners=False)
    losses = []
    for n, y, x in (truth < 254).nonzero().tolist():
        scores = full[n, :, y, x]
        losses.append((float(scores.logsumexp(0) - scores[int(truth[n, y, x])]), n, y, x))
    kept = torch.full_like(truth, 255)
    for _, n, y, x in sorted(losses)[: max(1, round(share * len(losses)))]:
        kept[n, y, x] = truth[n, y, x]
    return kept


@pytest.mark.parametrize("share", [0.8, 0.31, 1.0])
def test_small_losses_are_the_smallest(share: float) -> None:
    outputs, found = views()
    outputs["augmented"] = outputs["augmented"]._replace(aux=[Aux(prediction(seed=40).logits, 0.4)])
    truth = found.views["augmented"].labels
    before = truth.clone()
    objective = SmallLossCrossEntropy.Config(name="ce_augmented", share=share, weight=10.0).build(stub())
    terms = objective(outputs, found, context())
    kept = chosen_by_sorting(outputs["augmented"].logits, truth, share)
    expected = CrossEntropy.Config(name="ce_augmented", view="augmented", weight=10.0).build(stub())(
        outputs, pair(found.labels, kept), context()
    )
    assert terms == expected
    assert torch.equal(truth, before)
    assert objective.image_losses() is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 2.0**40, width=32), max_size=40), st.floats(0.01, 1), st.integers(0, 5))
def test_the_limit_is_exact_with_ties(values: list[float], share: float, void: int) -> None:
    losses = torch.tensor([*values, *[0.0] * void], dtype=torch.float32)
    valid = torch.arange(len(losses)) < len(values)
    limit = smallest(losses, valid, share, None)
    if values:
        wanted = max(1, round(share * len(values)))
        assert float(limit) == sorted(losses[valid].tolist())[wanted - 1]
    else:
        assert float(limit) == 0


def test_what_is_not_finite_reaches_the_loss_and_no_index() -> None:
    """inf - inf is a NaN with a sign, whose bits are no place of a histogram."""
    outputs, found = views()
    logits = outputs["augmented"].logits.detach().clone()
    logits[:] = math.inf
    outputs["augmented"] = outputs["augmented"]._replace(logits=logits)
    (loss,) = SmallLossCrossEntropy.Config().build(stub())(outputs, found, context()).values()
    assert not loss.isfinite()


def test_pixel_losses_are_never_negative_or_infinite() -> None:
    logits = torch.zeros(1, CLASSES, 4, 4)
    logits[:, 3] = 300.0
    truth = torch.tensor([3, 7, 255, 3], dtype=torch.uint8).repeat(1, 4, 1)
    losses = pixel_losses(logits, truth)
    assert losses[0, 0].tolist() == [0.0, 300.0, 0.0, 0.0]


def test_maximised_entropy_is_the_formula_and_least_at_the_uniform() -> None:
    outputs, found = views()
    terms = MaximizedEntropy.Config().build(stub())(outputs, found, context())
    truth = found.views["augmented"].labels
    full = F.interpolate(outputs["augmented"].logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    values = []
    for n, y, x in (truth == 254).nonzero().tolist():
        p = full[n, :, y, x].softmax(0)
        values.append(sum(-p[c].log() / CLASSES for c in range(CLASSES)))
    torch.testing.assert_close(terms["max_entropy"], 0.9 * torch.stack(values).mean(), rtol=1e-10, atol=0)
    flat = outputs["augmented"]._replace(logits=torch.zeros_like(outputs["augmented"].logits))
    least = MaximizedEntropy.Config(weight=1.0).build(stub())({**outputs, "augmented": flat}, found, context())[
        "max_entropy"
    ]
    assert float(least) == pytest.approx(math.log(CLASSES))


def every() -> dict[str, Objective]:
    return {
        "unc": RelativeContrast.Config().build(stub()),
        "ce_augmented": SmallLossCrossEntropy.Config(name="ce_augmented").build(stub()),
        "max_entropy": MaximizedEntropy.Config().build(stub()),
    }


DEGENERATE = degenerate()


@pytest.mark.parametrize("augmented", DEGENERATE)
@pytest.mark.parametrize("original", DEGENERATE)
def test_sets_may_be_empty(original: str, augmented: str) -> None:
    """Some of the three sets are empty in all of these: that term is 0, and everything has a finite gradient."""
    outputs = {"original": scored(0, N=2), "augmented": scored(1, N=2)}
    found = pair(DEGENERATE[original], DEGENERATE[augmented])
    terms = Objectives(every())(outputs, found, context())
    leaves = [outputs["original"].extra["uncertainty"], outputs["augmented"].extra["uncertainty"]]
    leaves.append(outputs["augmented"].logits)
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaves)
    assert all(value.isfinite() for value in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients)
    out = "all out of distribution"
    if out not in (original, augmented):
        assert terms["unc/original"] == terms["unc/augmented"] == terms["max_entropy"] == 0
    if "all void" in (original, augmented) or out in (original, augmented):
        assert terms["unc/shift"] == 0


# Three images on one process, or one on the first rank and two on the second.
SPLITS = {None: slice(0, 3), 0: slice(0, 1), 1: slice(1, 3)}


def step(rank: int | None, group: dist.ProcessGroup | None) -> dict[str, Any]:
    outputs, found = views()
    part = SPLITS[rank]
    mine, leaves = {}, []
    for name, whole in outputs.items():
        logits, u = (each.detach()[part].requires_grad_() for each in (whole.logits, whole.extra["uncertainty"]))
        mine[name] = Prediction(logits, {}, [], {"uncertainty": u})
        leaves += [logits, u]
    own = pair(found.labels[part], found.views["augmented"].labels[part], first_draw=part.start)
    terms = Objectives(every())(mine, own, context(step=2, group=group))
    total = torch.stack(list(terms.values()))
    gradients = torch.autograd.grad(total.sum(), leaves, allow_unused=True)
    return {"terms": total.detach(), "gradients": [g for g in gradients if g is not None]}


def test_two_ranks_are_one_process() -> None:
    first, second = run_ranks(step)
    alone = step(None, None)
    torch.testing.assert_close((first["terms"] + second["terms"]) / 2, alone["terms"], rtol=1e-12, atol=1e-14)
    assert (alone["terms"] > 0).all()
    for i, expected in enumerate(alone["gradients"]):
        mine = torch.cat([rank["gradients"][i] / 2 for rank in (first, second)])
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_step_is_the_eager_one(backend: str) -> None:
    run = compiled(Objectives(every()), backend)
    for seed in range(2):
        outputs, found = views(seed)
        leaves = [*(each.extra["uncertainty"] for each in outputs.values()), outputs["augmented"].logits]
        results = []
        for each in (Objectives(every()), run):
            terms = each(outputs, found, context(step=1))
            results.append([*torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaves), *terms.values()])
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def margins(objective: RelativeContrast) -> tuple[float | None, ...]:
    return objective.config.original, objective.config.augmented, objective.config.shift


def test_configs_build_what_they_say() -> None:
    torch.manual_seed(0)
    model = build("deeplabv3plus_r50", 5, layers=(1, 1, 1, 1), uncertainty=True)
    assert margins(RelativeContrast.Config().build(model)) == (10.0, 5.0, 5.0)
    assert margins(RelativeContrast.Config.mask2former().build(model)) == (0.7, 0.5, 0.2)
    small = SmallLossCrossEntropy.Config(weight=10.0).build(model).config
    assert (small.share, small.weight, small.view, small.name) == (0.8, 10.0, "augmented", "ce_augmented")
    assert SmallLossCrossEntropy.Config(aux_multiple=0).build(model).config.aux_multiple == 0
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        SmallLossCrossEntropy.Config(share=0.0).build(model)


def test_the_first_stage_teaches_the_head_what_is_unknown() -> None:
    """Pairs of the streets world through loader, model and objective: only the head moves, and the terms fall."""
    source = StreetsPairs(size=(64, 128), length=8)
    torch.manual_seed(0)
    model = build("deeplabv3plus_r50", layers=(1, 1, 1, 1), uncertainty=True)
    before = {key: value.clone() for key, value in model.named_parameters()}
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key.startswith("uncertainty."))
    objectives = Objectives({"unc": RelativeContrast.Config(original=2.0, augmented=1.0, shift=0.5).build(model)})
    learner = Learner(model, objectives)
    optimizer = torch.optim.Adam([model.uncertainty.weight], lr=1e-2)
    totals = []
    sampler = Uniform(8, batch_size=4, seed=0)
    for found in Loader([source], sampler, Pipeline(), batch_size=4, stop_step=12):
        terms = learner(found, StepContext(len(totals), 12))
        total = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert sum(totals[-3:]) < 0.8 * sum(totals[:3])
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved == {"uncertainty.weight"}
