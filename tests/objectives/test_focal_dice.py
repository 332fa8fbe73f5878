"""FocalDice and the class weights against their formulas in float64 torch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgseg.data.streets import Streets
from dgseg.models import Aux, Box
from dgseg.objectives import (
    BoundaryEmphasis,
    CrossEntropy,
    FocalDice,
    Objectives,
    median_frequency_weights,
    wants_median_frequency,
    with_median_frequency,
)
from tests.objectives.harness import CLASSES, batch, context, degenerate, detail, labels, prediction, stub
from tests.ops.harness import compiled

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS = [0.0, *np.linspace(0.2, 3, CLASSES - 1)]


def focal(logits: Tensor, truth: Tensor, weights: Tensor, gamma: float = 1.0) -> Tensor:
    z = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    valid = truth < CLASSES
    own = z.softmax(1).movedim(1, -1)[valid].gather(1, truth[valid].long()[:, None])[:, 0]
    return (weights[truth[valid].long()] * (1 - own) ** gamma * -own.log()).sum() / valid.sum()


def dice(logits: Tensor, truth: Tensor, weights: Tensor, smooth: float = 1.0) -> Tensor:
    z = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    valid = truth < CLASSES
    p, y = z.softmax(1).movedim(1, -1)[valid], F.one_hot(truth[valid].long(), CLASSES)
    each = 1 - (2 * (p * y).sum(0) + smooth) / (p.sum(0) + y.sum(0) + smooth)
    there = y.sum(0) > 0
    return (weights * each)[there].sum() / weights[there].sum()


def double(objective: FocalDice, *rows: Tensor) -> FocalDice:
    """With the weights as they were before float32 rounded them."""
    assert objective.class_weight is not None
    objective.class_weight = torch.stack(rows)
    return objective


ONES, GIVEN = torch.ones(CLASSES, dtype=torch.float64), torch.tensor(WEIGHTS, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_it_is_the_formula(alpha):
    truth, out = labels(), prediction()
    config = FocalDice.Config.combined(alpha, tuple(WEIGHTS))
    objective = config.build(stub())
    if alpha > 0:
        double(objective, ONES, GIVEN)
    term = objective({"original": out}, batch(truth), context())["focal_dice"]
    expected = alpha * dice(out.logits, truth, GIVEN) + (1 - alpha) * focal(out.logits, truth, ONES)
    torch.testing.assert_close(term, expected, rtol=1e-10, atol=0)
    ours, wanted = (torch.autograd.grad(loss, out.logits)[0] for loss in (term, expected))
    torch.testing.assert_close(ours, wanted, rtol=1e-8, atol=1e-12)
    parts = {"focal"} if alpha == 0 else {"dice"} if alpha == 1 else {"focal", "dice"}
    assert set(objective.metrics()) == {f"focal_dice/{name}" for name in parts | {"unweighted"}}
    torch.testing.assert_close(objective.metrics()["focal_dice/unweighted"], expected.detach(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_each_loss_alone_really_uses_its_weights(gamma):
    truth, out = labels(), prediction()
    one = double(FocalDice.Config(alpha=0.0, gamma=gamma, focal_class_weight=tuple(WEIGHTS)).build(stub()), GIVEN, ONES)
    other = double(FocalDice.Config.dice(tuple(WEIGHTS)).build(stub()), ONES, GIVEN)
    found = one({"original": out}, batch(truth), context()) | other({"original": out}, batch(truth), context())
    expected = {"focal_dice": focal(out.logits, truth, GIVEN, gamma), "dice": dice(out.logits, truth, GIVEN)}
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    plain = focal(out.logits, truth, ONES, gamma), dice(out.logits, truth, ONES)
    for term, unweighted in zip(found.values(), plain, strict=True):
        assert abs(term / unweighted - 1) > 1e-4


def test_auxiliary_predictions_and_weights_of_the_model():
    truth = labels()
    out = prediction(aux=[Aux(prediction(3, 4, 6, seed=3).logits, 1.0), detail(3)], extra={"weight": 0.9})
    terms = FocalDice.Config(weight=0.5, alpha=0.3).build(stub())({"original": out}, batch(truth), context())

    def mixture(logits: Tensor, truth: Tensor) -> Tensor:
        return 0.3 * dice(logits, truth, ONES) + 0.7 * focal(logits, truth, ONES)

    expected = {
        "focal_dice": 0.5 * 0.9 * mixture(out.logits, truth),
        "focal_dice/aux1": 0.5 * mixture(out.aux[0].logits, truth),
        "focal_dice/aux2": 0.5 * 0.1 * mixture(out.aux[1].logits, truth[:, 8:24, 16:40]),
    }
    torch.testing.assert_close(terms, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("weighted", [False, True])
def test_degenerate_batches_have_finite_losses_and_gradients(case, weighted):
    truth, out = degenerate()[case], prediction(2, 4, 4)
    out = out._replace(aux=[Aux(prediction(2, 2, 2).logits, 0.1, Box(0, 0, 8, 8))])
    weights = WEIGHTS if weighted else None
    objective = FocalDice.Config(focal_class_weight=weights, dice_class_weight=weights).build(stub())
    terms = objective({"original": out}, batch(truth), context())
    total = torch.stack(list(terms.values())).sum()
    for tensor in (total, *torch.autograd.grad(total, [out.logits, out.aux[0].logits])):
        assert tensor.isfinite().all()
    if "all" in case:
        assert total == 0


def step(part: slice, group=None) -> tuple[list[Tensor], Tensor]:
    """Terms and the gradient of these images' logits; test_adversarial.py compares ranks with one process."""
    truth, whole = labels(), prediction()
    truth[0, :20] = 255  # ranks of unequal weight
    truth[0][truth[0] == 5] = 255  # a class that the first rank has not
    logits = whole.logits.detach()[part].requires_grad_()
    own = whole._replace(logits=logits, aux=[Aux(logits, 0.4)])
    objective = FocalDice.Config(alpha=0.3, dice_class_weight=WEIGHTS).build(stub()).double()
    terms = torch.stack(list(objective({"original": own}, batch(truth[part]), context(group=group)).values()))
    return list(terms.detach()), torch.autograd.grad(terms.sum(), logits)[0]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_step_is_the_eager_one(backend):
    for alpha in (0.3, 1.0):
        objective = Objectives({"fd": FocalDice.Config(alpha=alpha, dice_class_weight=WEIGHTS).build(stub())})
        found = []
        for call in (objective, compiled(objective, backend)):
            out = prediction(aux=[Aux(prediction(seed=4).logits.detach(), 0.4)])
            terms = call({"original": out}, batch(labels()), context())
            found.append([*terms.values(), *torch.autograd.grad(terms["focal_dice"], [out.logits])])
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_median_frequency_is_the_rule():
    counts = [[60, 0, 30, 0], [0, 0, 40, 0], [10, 5, 0, 0]]
    # Of the images that have it, 100 pixels each, void included: 70 / 200, 5 / 100, 70 / 200.
    found = median_frequency_weights(counts, 100)
    assert found == pytest.approx((1.0, 0.35 / 0.05, 1.0, 0.0))
    # Without void: 70 / 105, 5 / 15, 70 / 130; the median is the last.
    found = median_frequency_weights(counts)
    assert found == pytest.approx((70 / 130 / (70 / 105), 70 / 130 * 3, 1.0, 0.0))
    # Images of 10 and 20 pixels: 4 / 30 and 1 / 20, and the mean of two numbers is their median.
    assert median_frequency_weights([[1, 0], [3, 1]], [10, 20]) == pytest.approx((11 / 16, 11 / 6))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_median_frequency_of_random_counts(images, classes, seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 50, (images, classes)) * random.integers(0, 2, (images, classes))
    if not counts.any():
        counts[0, 0] = 1
    frequency = {}
    for c in range(classes):
        having = [n for n in range(images) if counts[n, c]]
        if having:
            frequency[c] = sum(counts[n, c] for n in having) / (500 * len(having))
    median = float(np.median(list(frequency.values())))
    expected = [median / frequency[c] if c in frequency else 0.0 for c in range(classes)]
    assert median_frequency_weights(counts, 500) == pytest.approx(expected)


def test_weights_of_a_dataset_make_rare_classes_heavy():
    dataset = Streets("game", "train", size=(96, 192), length=6)
    counts = dataset.class_pixels()
    weights = median_frequency_weights(counts, 96 * 192)
    assert len(weights) == CLASSES
    assert weights[0] < 1 < max(weights)  # there is more road than most
    assert all((weight > 0) == bool(column.any()) for weight, column in zip(weights, counts.T, strict=True))


def test_the_word_becomes_numbers_before_anything_is_built():
    numbers = tuple(float(w) for w in WEIGHTS)
    for config in (
        CrossEntropy.Config(class_weight="median_frequency"),
        BoundaryEmphasis.Config(class_weight="median_frequency"),
        FocalDice.Config.focal("median_frequency"),
        FocalDice.Config.combined(0.7),
    ):
        assert wants_median_frequency(config)
        with pytest.raises(ValueError, match="'median_frequency', a rule: an objective takes numbers"):
            config.build(stub())
        resolved = with_median_frequency(config, numbers)
        assert not wants_median_frequency(resolved)
        weight = resolved.build(stub()).class_weight
        assert weight is not None
        rows = weight.expand(2, CLASSES) if weight.dim() == 1 else weight
        assert any(torch.allclose(row.double(), GIVEN) for row in rows)
    plain = BoundaryEmphasis.Config()
    assert with_median_frequency(plain, numbers) == plain
    assert not wants_median_frequency(plain)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"alpha": 1.5}, "between 0 .focal alone. and 1"),
        ({"alpha": math.nan}, "alpha"),
        ({"weight": 0.0}, "leave it out"),
        ({"focal_class_weight": [1.0]}, "focal_class_weight has 1 numbers for 19 classes"),
        ({"dice_class_weight": [-1.0] * CLASSES}, "finite and at least 0"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        FocalDice.Config(**arguments).build(stub())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(([1, 2],), r"\[images, classes\]"), (([[0, 0]],), "no image"), (([[3, 2]], 4), "smaller than the pixels")],
)
def test_wrong_counts(arguments, words):
    with pytest.raises(ValueError, match=words):
        median_frequency_weights(*arguments)
