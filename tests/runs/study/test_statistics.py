"""Intervals over seeds are scipy's; what cannot be known is not claimed."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from dgseg.runs.study.statistics import difference, summary

SCORES = st.integers(0, 1000).map(lambda permille: permille / 1000)
SIDE = st.dictionaries(st.integers(0, 20), SCORES, min_size=2, max_size=8)
CONFIDENCE = st.floats(0.5, 0.999)


@given(SIDE, st.data(), CONFIDENCE)
def test_the_same_seeds_are_paired(baseline: dict[int, float], data: st.DataObject, confidence: float):
    values = {seed: data.draw(SCORES) for seed in reversed(baseline)}
    mine, other = np.array([values[seed] for seed in baseline]), np.array(list(baseline.values()))
    assume(np.ptp(mine - other) > 1e-9)
    found = difference(values, baseline, confidence)
    wanted = stats.ttest_rel(mine, other).confidence_interval(confidence)
    assert found.method == "paired"
    assert found.seeds == len(baseline)
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert found.mean == pytest.approx(mine.mean() - other.mean(), abs=1e-12)


@given(SIDE, SIDE, CONFIDENCE)
def test_other_seeds_are_welch_s(values: dict[int, float], baseline: dict[int, float], confidence: float):
    assume(values.keys() != baseline.keys())
    assume(all(len(set(side.values())) > 1 for side in (values, baseline)))  # scipy warns of what does not vary
    found = difference(values, baseline, confidence)
    both = (np.array(list(side.values())) for side in (values, baseline))
    wanted = stats.ttest_ind(*both, equal_var=False).confidence_interval(confidence)
    assert found.method == "Welch"
    assert found.seeds == min(len(values), len(baseline))
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-7, abs=1e-12)


@given(SIDE, SIDE)
def test_the_verdict_is_the_interval_s(values: dict[int, float], baseline: dict[int, float]):
    found, back = difference(values, baseline), difference(baseline, values)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    if found.low <= 0 <= found.high:
        assert found.verdict == back.verdict == "within noise"
    else:
        assert found.verdict == ("better, beyond noise" if found.mean > 0 else "worse, beyond noise") != back.verdict


def test_an_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for seeds in (range(3), range(3, 6)):  # paired, Welch
        held = 0
        for _ in range(2000):
            noise = rng.normal(0, 0.01, 3)
            values = dict(zip(range(3), 0.02 + noise + rng.normal(0, 0.01, 3), strict=True))
            paired = seeds == range(3)
            baseline = dict(zip(seeds, (noise if paired else 0) + rng.normal(0, 0.01, 3), strict=True))
            found = difference(values, baseline, 0.9)
            assert found.low is not None
            assert found.high is not None
            held += found.low <= 0.02 <= found.high
        assert 0.88 < held / 2000 < 0.94  # Welch's is a little wide for three


@pytest.mark.parametrize(("values", "baseline"), [({0: 0.5}, {0: 0.4, 1: 0.5}), ({0: 0.5, 1: 0.6}, {1: 0.4})])
def test_one_seed_has_no_interval(values: dict[int, float], baseline: dict[int, float]):
    found = difference(values, baseline)
    assert (found.low, found.high, found.method, found.beyond_noise) == (None, None, "none", None)
    assert found.verdict == "no verdict: fewer than 2 seeds"


def test_a_summary():
    assert summary([0.25]).std is None
    found = summary([0.1, 0.2, 0.6])
    assert found.mean == pytest.approx(0.3)
    assert found.std == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert difference({0: 0.5, 1: 0.5}, {0: 0.4, 1: 0.4}).high == pytest.approx(0.1)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_a_confidence_that_is_none(confidence: float):
    with pytest.raises(ValueError, match="between 0 and 1"):
        difference({0: 0.5}, {0: 0.4}, confidence)
