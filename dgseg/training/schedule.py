"""Learning rate over the run: a function of the step alone, so that nothing of it has to be saved."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScheduleConfig:
    steps: int
    """optimiser steps of the whole run"""
    kind: Literal["poly", "cosine", "constant"] = "poly"
    power: float = 1.0
    """of poly: (1 - step / steps) ** power"""
    warmup: int = 0
    """steps in which the rate rises linearly"""
    warmup_ratio: float = 1e-6
    """of the rate, at the first step"""
    minimum: float = 0.0
    """share of the rate below which the decay does not go"""


def factor(schedule: ScheduleConfig, step: int) -> float:
    """What the base rate is multiplied by at this step (from 0)."""
    if schedule.kind == "poly":
        decay = polynomial(step, schedule.steps, schedule.power)
    elif schedule.kind == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * min(step / schedule.steps, 1.0)))
    else:
        decay = 1.0
    decay = schedule.minimum + (1 - schedule.minimum) * decay
    if step < schedule.warmup:
        # As the published schedules have it: the ramp scales the decayed rate, and the first step gets warmup_ratio.
        return decay * (1 - (1 - step / schedule.warmup) * (1 - schedule.warmup_ratio))
    return decay


def polynomial(step: int, steps: int, power: float) -> float:
    return float(max(0.0, 1 - step / steps) ** power)
