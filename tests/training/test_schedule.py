import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgseg.training.recipe import ScheduleConfig
from dgseg.training.schedule import factor


def test_poly_with_warm_up_is_the_published_one() -> None:
    """DAFormer's, by its own definition: poly 1.0 over 40,000 steps, 1,500 linear steps from 1e-6."""
    schedule = ScheduleConfig(steps=40_000, power=1.0, warmup=1500, warmup_ratio=1e-6)
    for step in (0, 1, 749, 1499, 1500, 20_000, 39_999):
        regular = (1 - step / 40_000) ** 1.0
        ramp = 1 - (1 - step / 1500) * (1 - 1e-6) if step < 1500 else 1.0
        assert factor(schedule, step) == pytest.approx(regular * ramp, rel=1e-12)
    assert factor(schedule, 0) == pytest.approx(1e-6)


def test_cosine() -> None:
    schedule = ScheduleConfig(steps=100, kind="cosine", minimum=0.1)
    assert factor(schedule, 0) == 1
    assert factor(schedule, 50) == pytest.approx(0.1 + 0.9 * 0.5)
    assert factor(schedule, 25) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert factor(schedule, 100) == pytest.approx(0.1)


@given(
    st.sampled_from(["poly", "cosine", "constant"]),
    st.integers(1, 1000),
    st.integers(0, 1000),
    st.floats(0.1, 3),
    st.floats(0, 1),
)
def test_it_stays_between_nothing_and_the_rate(kind: str, steps: int, step: int, power: float, minimum: float) -> None:
    schedule = ScheduleConfig(steps=steps, kind=kind, power=power, warmup=steps // 3, minimum=minimum)
    assert 0 <= factor(schedule, step) <= 1 + 1e-12
    if step >= schedule.warmup:
        assert factor(schedule, step + 1) <= factor(schedule, step) + 1e-12
