"""Whitening against RobustNet's equations, and the clusters against all partitions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.objectives import StepContext, Whitening
from dgseg.objectives.whitening import lowest_cluster, sensitive
from tests.models.harness import tiny
from tests.objectives.harness import context, stub
from tests.objectives.test_covariance import SHAPES, covariance
from tests.objectives.views import few_classes, leaves, predictions, two_views

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTHS = {feature: shape[0] for feature, shape in SHAPES.items()}
BATCH = two_views(few_classes())
MEASURES, ACTS = 3, 5  # of ten steps


def isw() -> Whitening:
    return Whitening.Config(features=tuple(WIDTHS), warmup=0.5, statistics=0.2).build(stub(**WIDTHS)).double()


def at(step: int) -> StepContext:
    return StepContext(step, 10, None, 7)


def upper(C: int) -> list[tuple[int, int]]:
    return [(c, d) for c in range(C) for d in range(c + 1, C)]


def oracle(outputs, masked: dict[str, list[tuple[int, int]]], margin: float = 0.0):
    per_map = []
    for feature in SHAPES:
        maps = outputs["original"].features[feature]
        per_image = []
        for x in maps:
            values = [covariance(x, x, c, d).abs() for c, d in masked[feature]]
            mean = torch.stack(values).mean() if values else maps.new_zeros(())
            per_image.append((mean - margin).clamp(min=0))
        per_map.append(torch.stack(per_image).mean())
    return torch.stack(per_map).mean()


@pytest.mark.parametrize(("kind", "margin"), [("iw", 0.0), ("irw", 0.3)])
def test_iw_and_irw_are_the_equations(kind, margin):
    outputs = predictions(SHAPES)
    whitening = Whitening.Config(features=tuple(WIDTHS), kind=kind, margin=margin).build(stub(**WIDTHS)).double()
    term = whitening({"original": outputs["original"]}, BATCH, context())["whitening"]
    expected = 0.6 * oracle(outputs, {feature: upper(C) for feature, C in WIDTHS.items()}, margin)
    torch.testing.assert_close(term, expected, rtol=1e-10, atol=0)
    actual, wanted = (torch.autograd.grad(loss, leaves(outputs, "original")) for loss in (term, expected))
    torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)
    assert list(whitening.buffers()) == []


def test_isw_whitens_what_varied_between_the_views():
    whitening = isw()
    variance = {feature: dict.fromkeys(upper(C), 0.0) for feature, C in WIDTHS.items()}
    for step in range(ACTS):
        outputs = predictions(SHAPES, seed=step)
        term = whitening(outputs, BATCH, at(step))["whitening"]
        assert term == 0
        term.backward()
        if step >= MEASURES:
            for feature, pairs in variance.items():
                views = [outputs[view].features[feature].detach() for view in ("original", "augmented")]
                for n in range(2):
                    for pair in pairs:
                        both = torch.stack([covariance(x[n], x[n], *pair) for x in views])
                        pairs[pair] += float(both.var()) / 4
    masked = {}
    for feature, pairs in variance.items():
        threshold = lowest_cluster(np.array(list(pairs.values())), 3)
        masked[feature] = [pair for pair, value in pairs.items() if value > threshold]
    assert all(0 < len(found) < len(upper(WIDTHS[feature])) for feature, found in masked.items())
    outputs = predictions(SHAPES, seed=99)
    term = whitening(outputs, BATCH, at(ACTS))["whitening"]
    expected = 0.6 * oracle(outputs, masked)
    torch.testing.assert_close(term, expected, rtol=1e-9, atol=0)
    actual, wanted = (torch.autograd.grad(loss, leaves(outputs, "original")) for loss in (term, expected))
    torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)
    assert whitening.metrics()["whitening/masked_norm1"] == 2 * len(masked["norm1"])
    # Once chosen it needs no second view, and the choice stands.
    torch.testing.assert_close(whitening({"original": outputs["original"]}, BATCH, at(9))["whitening"], expected)


@pytest.mark.parametrize("broken_at", [1, MEASURES, MEASURES + 1, ACTS, ACTS + 2])
def test_a_restored_run_goes_on_bit_for_bit(broken_at):
    def steps(whitening, numbers):
        return [whitening(predictions(SHAPES, seed=step), BATCH, at(step))["whitening"] for step in numbers]

    straight, before, after = isw(), isw(), isw()
    expected = steps(straight, range(10))[broken_at:]
    steps(before, range(broken_at))
    after.load_state_dict(before.state_dict())
    assert steps(after, range(broken_at, 10)) == expected
    assert all(torch.equal(after.state_dict()[key], value) for key, value in straight.state_dict().items())
    assert expected[-1] > 0


def test_without_statistics_isw_says_so():
    for step in (ACTS, 9):
        with pytest.raises(ValueError, match="measured no variances in steps 3 to 4"):
            isw()(predictions(SHAPES), BATCH, at(step))
    with pytest.raises(ValueError, match="the model was run on: original"):
        isw()({"original": predictions(SHAPES)["original"]}, BATCH, at(MEASURES))
    scoring = isw().eval()
    scoring(predictions(SHAPES), BATCH, at(MEASURES))
    assert scoring.pairs == 0


def test_views_that_do_not_differ_leave_nothing_to_whiten():
    whitening, outputs = isw(), predictions(SHAPES)
    outputs["augmented"] = outputs["original"]
    for step in range(ACTS + 1):
        term = whitening(outputs, BATCH, at(step))["whitening"]
    assert term == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(term, leaves(outputs, "original")))


@given(st.lists(st.floats(0, 10, width=16), min_size=1, max_size=9), st.integers(2, 4))
@settings(max_examples=300, deadline=None)
def test_the_lowest_cluster_is_that_of_a_best_partition(values, clusters):
    """Of all partitions of the sorted values into at most k intervals."""
    found = lowest_cluster(np.array(values), clusters)
    ordered = np.sort(values)
    costs = {}
    for cuts in itertools.combinations_with_replacement(range(len(ordered) + 1), clusters - 1):
        parts = [part for part in np.split(ordered, cuts) if len(part)]
        cost = sum(((part - part.mean()) ** 2).sum() for part in parts)
        highest = float(parts[0][-1])
        costs[highest] = min(cost, costs.get(highest, np.inf))
    assert costs[found] <= min(costs.values()) + 1e-8


def test_the_mask_is_symmetric_and_has_no_diagonal():
    variance = torch.rand(40, 40, generator=torch.Generator().manual_seed(0)) ** 4
    mask = sensitive(variance, 3)
    assert torch.equal(mask, mask.T)
    assert not mask.diagonal().any()
    assert 0 < mask.sum() < 40 * 39 / 2
    assert not sensitive(variance[:1, :1], 3).any()
    torch.library.opcheck(torch.ops.dgseg.sensitive_covariances.default, (variance, 3))


def test_under_autocast_covariances_are_float32():
    outputs = {
        view: prediction._replace(features={k: v.detach().float() for k, v in prediction.features.items()})
        for view, prediction in predictions(SHAPES).items()
    }
    terms = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms.append(
                Whitening.Config(features=tuple(WIDTHS), kind="iw").build(stub(**WIDTHS))(outputs, BATCH, context())[
                    "whitening"
                ]
            )
    assert terms[0] == terms[1]
    assert (
        Whitening.Config(features=tuple(WIDTHS)).build(stub(**WIDTHS)).bfloat16().variance_norm0.dtype == torch.float32
    )


@pytest.mark.parametrize("kind", ["iw", "irw", "isw"])
def test_flat_maps_have_finite_losses_and_gradients(kind):
    whitening = (
        Whitening.Config(features=tuple(WIDTHS), kind=kind, warmup=0.5, statistics=0.2).build(stub(**WIDTHS)).double()
    )
    outputs = predictions({"norm0": (3, 4, 6), "norm1": (5, 1, 1)}, 1)
    for prediction in outputs.values():
        prediction.features["norm0"].data.zero_()
    for step in range(ACTS + 1):
        term = whitening(outputs, two_views(few_classes(1)), at(step))["whitening"]
        gradients = torch.autograd.grad(term, leaves(outputs, "original"))
        assert term.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="kind"):
        Whitening.Config(features=tuple(WIDTHS), kind="isv").build(stub(**WIDTHS))
    with pytest.raises(ValueError, match="clusters"):
        Whitening.Config(features=tuple(WIDTHS), clusters=1).build(stub(**WIDTHS))
    with pytest.raises(ValueError, match="statistics <= warmup"):
        Whitening.Config(features=tuple(WIDTHS), warmup=0.1, statistics=0.2).build(stub(**WIDTHS))
    with pytest.raises(ValueError, match="no feature map 'norm0'"):
        Whitening.Config().build(tiny("deeplabv3plus_r50", instance_norms=None))
