"""Out-of-distribution scores: scikit-learn's on the rounded scores, and a certain interval for the unrounded ones."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from torch import Tensor

from dgseg.evaluation.maps import outside_map
from dgseg.evaluation.ood import METRICS, OodScores, above, deviation, exact_metrics, ood_metrics

IN, OUT, VOID = 0, 1, 255


def maps(scores: list[float], outside: list[bool]) -> tuple[Tensor, Tensor]:
    labels = torch.tensor([OUT if out else IN for out in outside], dtype=torch.uint8)
    return torch.tensor(scores, dtype=torch.float32).view(1, 1, -1), labels.view(1, 1, -1)


def by_sklearn(scores: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    fpr, tpr, _ = roc_curve(outside, scores, drop_intermediate=False)
    return {
        "auroc": roc_auc_score(outside, scores),
        "ap": average_precision_score(outside, scores),
        "fpr95": fpr[np.argmax(tpr >= 0.95)],
    }


# Few values: ties within and between the two kinds; halves: everything fp16 can hold, subnormals and zeros included.
SCORES = st.one_of(
    st.sampled_from([-2.0, -0.0, 0.0, 1.0, 1.0009765625, 7.0]),
    st.floats(width=16, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=60))
def test_equal_to_scikit_learn_with_ties(pixels):
    scores, outside = np.array([s for s, _ in pixels]), np.array([o for _, o in pixels])
    if outside.all() or not outside.any():
        return
    found = ood_metrics(*maps(scores.tolist(), outside.tolist()))
    expected = by_sklearn(scores, outside)
    for name in METRICS:
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-12), name
    precision, recall, thresholds = precision_recall_curve(outside, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert found.best_f1 == pytest.approx(f1[: len(thresholds)].max(), abs=1e-12)
    called = scores >= found.best_threshold
    assert found.best_f1 == pytest.approx(2 * (called & outside).sum() / (called.sum() + outside.sum()), abs=1e-12)
    assert found.fpr95 == pytest.approx((scores >= found.threshold95)[~outside].mean(), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-4, 4, width=32), st.booleans()), min_size=2, max_size=60),
    st.sampled_from([1.0, 1e-3, 1e-5]),
)
def test_unrounded_results_lie_in_the_interval(pixels, spread):
    """A small spread around 1 puts many scores into one fp16 value."""
    scores, labels = maps([1 + spread * s for s, _ in pixels], [o for _, o in pixels])
    if bool((labels == OUT).all()) or bool((labels == IN).all()):
        return
    rounded, exact = ood_metrics(scores, labels), exact_metrics(scores, labels)
    expected = by_sklearn(scores.flatten().numpy(), (labels == OUT).flatten().numpy())
    for name in METRICS:
        low, high = rounded.interval[name]
        assert low - 1e-9 <= getattr(exact, name) <= high + 1e-9, name
        assert low - 1e-9 <= getattr(rounded, name) <= high + 1e-9, name
        assert getattr(exact, name) == pytest.approx(expected[name], abs=1e-12), name


def test_rounding_changes_little_on_a_million_pixels():
    g = torch.Generator().manual_seed(0)
    labels = torch.where(torch.rand(4, 500, 500, generator=g) < 0.02, OUT, IN).to(torch.uint8)
    scores = 3 * torch.randn(labels.shape, generator=g) - 12 + 5.0 * (labels == OUT)
    off = deviation(scores, labels)
    assert all(abs(value) < 2e-3 for value in off.values()), off
    interval = ood_metrics(scores, labels).interval
    assert all(high - low < 4e-3 for low, high in interval.values()), interval


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-6])
def test_a_constant_score_knows_nothing(value):
    found = ood_metrics(*maps([value] * 10, [True, *[False] * 9]))
    assert (found.auroc, found.ap, found.fpr95) == (0.5, pytest.approx(0.1), 1.0)


def test_one_kind_of_pixels():
    all_in = ood_metrics(*maps([0.0, 1.0], [False, False]))
    assert math.isnan(all_in.auroc)
    assert math.isnan(all_in.ap)
    assert all_in.fpr95 == 1.0  # no threshold ever finds 95 %
    all_out = ood_metrics(*maps([0.0, 1.0], [True, True]))
    assert math.isnan(all_out.auroc)
    assert all_out.ap == 1.0
    assert math.isnan(all_out.fpr95)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert math.isnan(roc_auc_score([0, 0], [0.0, 1.0]))
        assert average_precision_score([1, 1], [0.0, 1.0]) == all_out.ap


def test_no_pixel_is_an_error():
    scores, labels = maps([0.0, 1.0], [True, False])
    with pytest.raises(ValueError, match="no pixel was scored"):
        ood_metrics(scores, torch.full_like(labels, VOID))
    with pytest.raises(ValueError, match="no pixel was scored"):
        OodScores().result()


def test_merged_parts_are_the_whole_and_void_counts_for_nobody():
    g = torch.Generator().manual_seed(1)
    scores = torch.randn(6, 16, 16, generator=g)
    labels = torch.tensor([IN, OUT, VOID], dtype=torch.uint8)[torch.randint(0, 3, scores.shape, generator=g)]
    whole, merged = OodScores(), OodScores()
    whole.update(scores, labels)
    for part in (slice(4, 6), slice(0, 3), slice(3, 4)):
        other = OodScores()
        other.update(torch.where(labels == VOID, 99.0, scores)[part], labels[part].long())
        merged.merge(other)
    assert torch.equal(whole.counts["scores"], merged.counts["scores"])
    assert whole.result() == merged.result()
    assert whole.result().positives == int((labels == OUT).sum())


def test_curves_hold_one_point_per_distinct_score():
    g = torch.Generator().manual_seed(2)
    scores = torch.randint(-5, 6, (1, 20, 20), generator=g).float()
    labels = torch.where(torch.rand(scores.shape, generator=g) < 0.3, OUT, IN).to(torch.uint8)
    tally = OodScores()
    tally.update(scores, labels)
    curves = tally.curves()
    fpr, tpr, thresholds = roc_curve((labels == OUT).flatten(), scores.flatten(), drop_intermediate=False)
    np.testing.assert_array_equal(curves.thresholds, thresholds[1:])
    np.testing.assert_allclose(curves.true_positive_rate, tpr[1:])
    np.testing.assert_allclose(curves.false_positive_rate, fpr[1:])
    threshold = tally.result().best_threshold
    assert torch.equal(above(scores, threshold), scores >= threshold)


def test_what_has_no_place_in_an_order_is_refused():
    scores, labels = maps([0.0, math.nan], [True, False])
    for metric in (ood_metrics, exact_metrics):
        with pytest.raises(ValueError, match="NaN at"):
            metric(scores, labels)
    with pytest.raises(ValueError, match="divide them by a constant"):
        ood_metrics(torch.tensor([[[0.0, 1e6]]]), labels)
    with pytest.raises(ValueError, match="like the map"):
        ood_metrics(scores[..., :1], labels)
    infinite = ood_metrics(*maps([math.inf, -math.inf], [True, False]))
    assert infinite.auroc == 1.0


def test_label_maps_are_not_mistaken_for_maps_of_the_outside():
    labels = torch.tensor([[[0, 1, 18, 254, 255]]], dtype=torch.uint8)
    scores = torch.arange(5.0).view(1, 1, 5)
    with pytest.raises(ValueError, match=r"outside_map\(labels\)"):
        ood_metrics(scores, labels)
    assert outside_map(labels).tolist() == [[[0, 0, 0, 1, 255]]]
    assert ood_metrics(scores, outside_map(labels.int())).positives == 1
