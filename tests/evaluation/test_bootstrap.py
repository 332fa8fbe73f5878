"""The paired bootstrap: against a loop, against chance, and against what it must refuse."""

import numpy as np
import pytest

from dgseg.evaluation.bootstrap import ALL, paired_bootstrap
from dgseg.evaluation.confusion import mean_iou


def parts(accuracy: float, *, images: int = 40, classes: int = 6, seed: int = 0, noise: int = 1) -> np.ndarray:
    """Counts of a model that is right with this probability; `seed` makes the images, `noise` the model's errors."""
    truth = np.random.default_rng(seed).integers(0, 400, (images, classes))
    truth[:, -1] *= np.arange(images) % 10 == 0  # a rare class: absent from many resamplings of few images
    rng = np.random.default_rng([seed, noise])
    hard = np.random.default_rng([seed, 99]).normal(0, 0.1, (images, 1))
    right = rng.binomial(truth, np.clip(accuracy + hard, 0, 1))
    wrong = truth - right
    predicted = right + np.roll(wrong, 1, axis=1)
    return np.stack([right, truth, predicted], 1)


def test_equal_to_a_loop_over_the_same_draws():
    a, b = parts(0.7), parts(0.75, noise=2)
    found = paired_bootstrap({"fog": a}, {"fog": b}, resamples=500, seed=3)["fog"]
    rng = np.random.default_rng([3, 0])
    draws = rng.integers(40, size=(500, 40))
    differences = [mean_iou(b[drawn].sum(0)) - mean_iou(a[drawn].sum(0)) for drawn in draws]
    low, high = np.quantile(differences, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high, abs=1e-12)
    assert found.difference == mean_iou(b.sum(0)) - mean_iou(a.sum(0))
    assert (found.images, found.resamples) == (40, 500)


def test_a_model_equals_itself():
    found = paired_bootstrap({"fog": parts(0.7)}, {"fog": parts(0.7)}, resamples=200)["fog"]
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert not found.beyond_noise


def test_a_gain_is_seen_and_noise_is_not():
    better = paired_bootstrap({"fog": parts(0.7)}, {"fog": parts(0.8, noise=2)}, resamples=1000)["fog"]
    assert better.beyond_noise
    assert better.p_value < 0.01
    assert better.low < better.difference < better.high
    worse = paired_bootstrap({"fog": parts(0.8, noise=2)}, {"fog": parts(0.7)}, resamples=1000)["fog"]
    assert worse.high == pytest.approx(-better.low)
    claims = sum(
        paired_bootstrap({"fog": parts(0.7, seed=s, noise=1)}, {"fog": parts(0.7, seed=s, noise=2)}, resamples=300)[
            "fog"
        ].beyond_noise
        for s in range(60)
    )
    assert claims <= 10  # 3 expected at 95 %


def test_domains_and_their_average():
    a = {"fog": parts(0.7), "night": parts(0.5, seed=5, images=15)}
    b = {"fog": parts(0.7, noise=2), "night": parts(0.6, seed=5, images=15, noise=2)}
    found = paired_bootstrap(a, b, resamples=800)
    assert list(found) == ["fog", "night", ALL]
    assert found[ALL].difference == pytest.approx((found["fog"].difference + found["night"].difference) / 2)
    assert found[ALL].images == 55
    again = paired_bootstrap(a, b, resamples=800)
    assert again == found
    assert paired_bootstrap(a, b, resamples=800, seed=1) != found


def test_what_does_not_pair_is_refused():
    a, b = parts(0.7), parts(0.8, noise=2)
    with pytest.raises(ValueError, match="same domains"):
        paired_bootstrap({"fog": a}, {"rain": b})
    with pytest.raises(ValueError, match="same domains"):
        paired_bootstrap({}, {})
    with pytest.raises(ValueError, match="same images"):
        paired_bootstrap({"fog": a}, {"fog": b[1:]})
    with pytest.raises(ValueError, match="different images, or in different order"):
        paired_bootstrap({"fog": a}, {"fog": b[::-1]})
    with pytest.raises(ValueError, match="another one"):
        paired_bootstrap({"average": a, "fog": a}, {"average": b, "fog": b})
    with pytest.raises(ValueError, match="no image to resample"):
        paired_bootstrap({"fog": a[:0]}, {"fog": b[:0]})
    with pytest.raises(ValueError, match="no image has a labelled pixel"):
        paired_bootstrap({"fog": a * 0}, {"fog": b * 0})
    with pytest.raises(ValueError, match="confidence"):
        paired_bootstrap({"fog": a}, {"fog": b}, confidence=95)
