"""Sweeps' records as a sweep leaves them, without one."""

import random
from collections.abc import Sequence
from dataclasses import replace

from dgseg.runs.sweep.record import TrialRecord
from dgseg.runs.sweep.space import Parameter


def trials(parameters: Sequence[Parameter], count: int = 16) -> list[TrialRecord]:
    """ASHA's shape: all come to step 111, a third to 333, a ninth to the end, one fails. Scores follow the first
    parameter alone."""
    chance = random.Random(0)
    found = []
    for number in range(count):
        values = {each.name: _drawn(each, chance) if number else each.default for each in parameters}
        first = parameters[0]
        height = values[first.name] / first.distribution.high  # type: ignore[attr-defined]
        steps = (111, 333, 1000) if number % 9 == 0 else (111, 333) if number % 3 == 0 else (111,)
        status = "finished" if len(steps) == 3 else "stopped"
        scores = {step: 0.2 + 0.1 * height + 0.05 * place for place, step in enumerate(steps)}
        found.append(TrialRecord(number, values, status, scores, seconds=60.0 * len(steps)))  # type: ignore[arg-type]
    reason = "step 7: the loss is not finite\nTerms: …"
    return [*found[:-1], replace(found[-1], status="failed", scores={}, reason=reason)]


def _drawn(each: Parameter, chance: random.Random) -> object:
    choices = getattr(each.distribution, "choices", None)
    if choices:
        return chance.choice(choices)
    return chance.uniform(each.distribution.low, each.distribution.high)  # type: ignore[attr-defined]
