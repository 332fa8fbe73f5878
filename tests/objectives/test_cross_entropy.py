"""CrossEntropy and BoundaryEmphasis against their formulas in float64 torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgseg.models import Aux, Box
from dgseg.objectives import BoundaryEmphasis, CrossEntropy
from dgseg.objectives.cross_entropy import cropped
from dgseg.ops import boundary_bands
from tests.objectives.harness import CLASSES, batch, context, degenerate, detail, labels, prediction, stub


def pixel_losses(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy (0 where not valid), entropy and validity of every label pixel."""
    z = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    valid = truth < CLASSES
    p = z.softmax(1)
    own = p.gather(1, truth.long().clamp(max=CLASSES - 1)[:, None])[:, 0]
    return torch.where(valid, -own.log(), 0.0), -(p * p.log()).sum(1), valid


def in_band(truth: Tensor, radius: int) -> Tensor:
    """Pixel by pixel: does another valid class lie in the window?"""
    N, H, W = truth.shape
    band = torch.zeros(N, H, W, dtype=torch.bool)
    for n in range(N):
        for y in range(H):
            for x in range(W):
                window = truth[n, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
                window = window[window < CLASSES]
                band[n, y, x] = truth[n, y, x] < CLASSES and bool((window != truth[n, y, x]).any())
    return band


def ube(logits: Tensor, truth: Tensor, alpha: float, radius: int, denominator: str = "valid") -> Tensor:
    ce, entropy, valid = pixel_losses(logits, truth)
    band = in_band(truth, radius)
    mean, deviation = entropy[band].mean(), entropy[band].std(correction=0)
    weight = torch.where(band, 1 + alpha * torch.sigmoid((entropy - mean) / (deviation + 1e-6)), 1.0).detach()
    return (weight * ce).sum() / (valid.sum() if denominator == "valid" else valid.numel())


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("denominator", ["valid", "all"])
def test_cross_entropy_is_the_formula(denominator):
    truth, out = labels(), prediction()
    class_weight = torch.linspace(0.5, 2, CLASSES, dtype=torch.float64)
    objective = (
        CrossEntropy.Config(weight=0.7, denominator=denominator, class_weight=class_weight.tolist())
        .build(stub())
        .double()
    )
    objective.class_weight.copy_(class_weight)  # from float32
    terms = objective({"original": out}, batch(truth), context())
    ce, _, valid = pixel_losses(out.logits, truth)
    own_weight = class_weight[truth.long().clamp(max=CLASSES - 1)]
    expected = (own_weight * ce).sum() / (valid.sum() if denominator == "valid" else valid.numel())
    assert list(terms) == ["ce"]
    torch.testing.assert_close(terms["ce"], 0.7 * expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        gradients(terms["ce"], out.logits), gradients(0.7 * expected, out.logits), rtol=1e-8, atol=1e-12
    )
    torch.testing.assert_close(objective.metrics()["ce/unweighted"], expected.detach(), rtol=1e-10, atol=0)


def test_each_image_is_scored_without_weights():
    truth, out = labels(), prediction()
    truth[1] = 254
    objective = BoundaryEmphasis.Config(class_weight=[2.0] * CLASSES).build(stub())
    objective({"original": out}, batch(truth), context())
    ce, _, valid = pixel_losses(out.logits, truth)
    losses = objective.image_losses()
    assert losses is not None
    assert losses.valid.tolist() == [True, False, True]
    expected = ce.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
    torch.testing.assert_close(losses.losses, expected.detach(), rtol=1e-10, atol=0)
    assert not losses.losses.requires_grad


@pytest.mark.parametrize(("alpha", "radius", "denominator"), [(3.0, 3, "valid"), (3.0, 3, "all"), (0.5, 1, "valid")])
def test_ube_is_the_formula(alpha, radius, denominator):
    truth, out = labels(2, 24, 32), prediction(2, 6, 8)
    objective = BoundaryEmphasis.Config(alpha=alpha, radius=radius, denominator=denominator).build(stub())
    term = objective({"original": out}, batch(truth), context())["ube"]
    expected = ube(out.logits, truth, alpha, radius, denominator)
    torch.testing.assert_close(term, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradients(term, out.logits), gradients(expected, out.logits), rtol=1e-7, atol=1e-12)
    entropy = pixel_losses(out.logits, truth)[1][in_band(truth, radius)].mean()
    torch.testing.assert_close(objective.metrics()["ube/band_entropy"], entropy.detach())


def test_hrda_has_ube_on_the_fused_and_on_the_detail_prediction_each_with_its_own_bands():
    truth = labels()
    crop = truth[:, 8:24, 16:40]
    assert not torch.equal(in_band(crop, 3), in_band(truth, 3)[:, 8:24, 16:40]), "the crop must show the difference"
    out = prediction(aux=[detail(3)], extra={"weight": 0.9})
    objective = BoundaryEmphasis.Config().build(stub())
    terms = objective({"original": out}, batch(truth), context())
    expected = {
        "ube": 0.9 * ube(out.logits, truth, 3.0, 3),
        "ube/aux1": 0.1 * ube(out.aux[0].logits, crop, 3.0, 3),
    }
    torch.testing.assert_close(terms, expected, rtol=1e-9, atol=0)
    ce, _, valid = pixel_losses(out.logits, truth)
    losses = objective.image_losses()
    assert losses is not None
    torch.testing.assert_close(losses.losses, (ce.sum((1, 2)) / valid.sum((1, 2))).detach())


def test_auxiliary_heads_of_the_whole_image_share_its_bands():
    truth, out = labels(), prediction(aux=[Aux(prediction(3, 4, 6, seed=3).logits, 0.4)])
    terms = BoundaryEmphasis.Config().build(stub())({"original": out}, batch(truth), context())
    torch.testing.assert_close(terms["ube/aux1"], 0.4 * ube(out.aux[0].logits, truth, 3.0, 3), rtol=1e-9, atol=0)


def test_auxiliary_heads_can_weigh_more_or_be_left_out():
    truth, out = labels(), prediction(aux=[Aux(prediction(3, 4, 6, seed=3).logits, 0.4)])
    plain = BoundaryEmphasis.Config().build(stub())({"original": out}, batch(truth), context())
    twice = BoundaryEmphasis.Config(weight=0.5, aux_multiple=2.0).build(stub())(
        {"original": out}, batch(truth), context()
    )
    torch.testing.assert_close(twice, {"ube": 0.5 * plain["ube"], "ube/aux1": plain["ube/aux1"]})
    assert list(CrossEntropy.Config(aux_multiple=0.0).build(stub())({"original": out}, batch(truth), context())) == [
        "ce"
    ]


def test_a_box_of_tensors_is_cropped_as_one_of_numbers():
    truth = labels()
    box = Box(torch.tensor(8), torch.tensor(16), 16, 24)
    assert torch.equal(cropped(truth, box), cropped(truth, Box(8, 16, 16, 24)))


def test_alpha_zero_is_cross_entropy():
    truth, out = labels(), prediction(aux=[detail(3)])
    plain = CrossEntropy.Config().build(stub())({"original": out}, batch(truth), context())
    emphasised = BoundaryEmphasis.Config(alpha=0.0).build(stub())({"original": out}, batch(truth), context())
    assert torch.equal(torch.stack(list(plain.values())), torch.stack(list(emphasised.values())))


@pytest.mark.parametrize(
    ("config", "weigh"),
    [
        (BoundaryEmphasis.Config.amplify(), lambda ce: torch.full_like(ce, 5.0)),
        (BoundaryEmphasis.Config.ignore(), torch.zeros_like),
        (BoundaryEmphasis.Config.reduce(), lambda ce: torch.full_like(ce, 0.5)),
        (BoundaryEmphasis.Config.threshold(0.3), lambda ce: torch.where(ce > -math.log(0.3), 5.0, 1.0)),
    ],
    ids=["amplify", "ignore", "reduce", "threshold"],
)
def test_fixed_weightings(config, weigh):
    truth, out = labels(2, 24, 32), prediction(2, 6, 8)
    term = config.build(stub())({"original": out}, batch(truth), context())["boundary"]
    ce, _, valid = pixel_losses(out.logits, truth)
    weight = torch.where(in_band(truth, 3), weigh(ce), 1.0).detach()
    torch.testing.assert_close(term, (weight * ce).sum() / valid.sum(), rtol=1e-10, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))
def test_the_band_of_one_radius_holds_those_of_smaller_radii(seed, radius, H, W):
    """Hence disjoint and nested bands are the same to UBE."""
    truth = torch.randint(0, 3, (1, H, W), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    radii = tuple(range(1, radius + 1))
    assert torch.equal(boundary_bands(truth, radii) > 0, boundary_bands(truth, (radius,)) > 0)


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize(
    "objective", [CrossEntropy.Config().build(stub()), BoundaryEmphasis.Config().build(stub())], ids=["ce", "ube"]
)
def test_degenerate_batches_have_finite_losses_and_gradients(case, objective):
    truth, out = degenerate()[case], prediction(2, 4, 4)
    out = out._replace(aux=[Aux(prediction(2, 2, 2).logits, 0.1, Box(0, 0, 8, 8))])
    terms = objective({"original": out}, batch(truth), context())
    total = torch.stack(list(terms.values())).sum()
    for tensor in (total, *gradients(total, out.logits, out.aux[0].logits)):
        assert tensor.isfinite().all()
    if "all" in case:
        assert total == 0


def test_the_batch_keeps_its_own_labels():
    truth = labels()
    before = truth.clone()
    BoundaryEmphasis.Config().build(stub())({"original": prediction()}, batch(truth), context())
    assert torch.equal(truth, before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"alpha": -1.0}, "alpha"),
        ({"radius": 0}, "use cross-entropy"),
        ({"weighting": "ignore"}, "weighting"),
        ({"confidence": 0.5}, "belongs to"),
        ({"weighting": "threshold"}, "belongs to"),
        ({"weighting": "threshold", "confidence": 1.0}, "probability"),
        ({"denominator": "mean"}, "denominator"),
        ({"weight": 0.0}, "leave it out"),
        ({"aux_multiple": -1.0}, "aux_multiple"),
        ({"class_weight": [1.0]}, "19 classes"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        BoundaryEmphasis.Config(**arguments).build(stub())
