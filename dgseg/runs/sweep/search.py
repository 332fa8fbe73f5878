"""Tune's searcher and scheduler over the sweep's record: neither has a memory of its own that a kill could take."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from dgseg.runs.sweep.record import Record, TrialRecord, study
from dgseg.runs.sweep.space import Parameter, defaults

NUMBER = "number"  # beside the values in a trial's configuration


class RecordedSearch(Searcher):  # type: ignore[misc]
    """First the recipe's own values, so that every sweep has its baseline; then what Optuna proposes. Trials that the
    sweep's last process left unfinished are handed out again before any new one."""

    def __init__(self, record: Record, parameters: Sequence[Parameter], kind: str, seed: int, trials: int) -> None:
        super().__init__(metric=None, mode=None)
        self.record, self.parameters, self.seed, self.trials = record, parameters, seed, trials
        self.kind = kind  # "searcher" is Tune's word for what a searcher wraps
        self._unfinished = record.of("running")

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._unfinished:
            again = self._unfinished.pop(0)
            return {NUMBER: again.number, **again.values}
        number = len(self.record.trials)
        values = defaults(self.parameters) if number == 0 else None
        if values is None:
            values = self._proposed(number)
        self.record.trials.append(TrialRecord(number, values))
        self.record.save()
        return {NUMBER: number, **values}

    def _proposed(self, number: int) -> dict[str, Any]:
        # Chance is a function of the trial's number: a sweep that goes on does not draw its first points again.
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        # A quarter of the trials, at least 4, before the estimator is believed; it takes the running ones for bad.
        sampler = (
            optuna.samplers.TPESampler(n_startup_trials=max(4, self.trials // 4), constant_liar=True, seed=seed)
            if self.kind == "tpe"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        distributions = {each.name: each.distribution for each in self.parameters}
        asked = study(self.record.trials, self.parameters, sampler).ask(distributions)
        return dict(asked.params)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        return  # the record hears of it from the sweep

    def save(self, checkpoint_path: str) -> None:
        return  # nobody reads what Tune keeps

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a sweep goes on from its record, not from Tune's files")


class Milestones(FIFOScheduler):  # type: ignore[misc]
    """ASHA: at a ninth and a third of the steps (for a factor of 3) a trial goes on when it is among the best third of
    those that have come so far, itself counted, or the best. Tune's own asks whether it beats an interpolated quantile
    of the others, and of 16 lets 6.8 and 3.4 pass by chance where this lets 5.7 and 2.5. Trials are known by their
    numbers, which outlive Tune's ids.

    Tune would end a trial by ending its actor, and Ray Train's placement group would stay taken until the sweep's end.
    So a trial is asked to stop, like any run: it saves, closes its record and gives back what it holds."""

    def __init__(
        self, record: Record, metric: str, milestones: Sequence[int], factor: int, cut: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._record, self._metric, self._factor, self._cut = record, metric, factor, cut
        self._scores: dict[int, dict[int, float]] = {each: {} for each in sorted(milestones, reverse=True)}
        for trial in record.trials:
            for step, score in sorted(trial.scores.items()):
                # Only what was decided then is: in this order, not that of their coming, who went on might not.
                self._goes_on(trial.number, step, score)
            if trial.cut and trial.status == "running":
                trial.status = "stopped"  # the kill came between the milestone and the stop

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config[NUMBER]
        if self._metric in result and not self._goes_on(number, int(result["step"]), float(result[self._metric])):
            self._record.trials[number].cut = True
            self._cut(number)
        return str(self.CONTINUE)

    def _goes_on(self, number: int, step: int, score: float) -> bool:
        """The first score at a milestone or after it counts, for the last milestone that it has reached alone."""
        for milestone, scores in self._scores.items():
            if step >= milestone:
                if number in scores:
                    return True
                scores[number] = -math.inf if math.isnan(score) else score
                better = sum(other > scores[number] for other in scores.values())
                return better < max(1, len(scores) // self._factor)
        return True
