"""Ray Tune's searcher and scheduler, each with what it lacks: a record that no kill can damage, and exact thirds.

tuning/README.md has the measurements that make these subclasses necessary.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.schedulers.async_hyperband import _Bracket
from ray.tune.search.optuna import OptunaSearch

from dgseg.runs.sweep.record import NAME, REASON
from dgseg.runs.sweep.space import Parameter, defaults

NUMBER = "number"  # of the trial, beside the values in its configuration


class StoredSearch(OptunaSearch):  # type: ignore[misc]
    """OptunaSearch over a study on disk. The first trial has the recipe's own values. Trials that an earlier process
    left unfinished are handed out again before any new one, under their numbers."""

    def __init__(
        self, study: optuna.Study, parameters: Sequence[Parameter], metric: str, kind: str, seed: int, trials: int
    ) -> None:
        super().__init__(
            {each.name: each.distribution for each in parameters},
            metric=metric,
            mode="max",
            study_name=NAME,
            storage=study._storage,
        )
        self._kind, self._search_seed, self._trials = kind, seed, trials
        own = defaults(parameters)
        if own is not None and not study.trials:
            self._ot_study.enqueue_trial(own)
        self._unfinished = self._ot_study.get_trials(states=(TrialState.RUNNING,))

    def suggest(self, trial_id: str) -> dict[str, Any]:
        if self._unfinished:
            self._ot_trials[trial_id] = optuna.Trial(self._ot_study, self._unfinished.pop(0)._trial_id)
        self._ot_study.sampler = self._sampler_of(len(self._ot_study.get_trials(deepcopy=False)))
        values = super().suggest(trial_id)
        return {NUMBER: self._ot_trials[trial_id].number, **values}

    def _sampler_of(self, number: int) -> optuna.samplers.BaseSampler:
        # Chance is a function of the trial's number: a sweep that resumes does not draw its first points again.
        seed = int(np.random.SeedSequence([self._search_seed, number]).generate_state(1)[0])
        if self._kind == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        # A quarter of the trials, at least 4, before the estimator is believed; it takes the running ones for bad.
        begin = max(4, self._trials // 4)
        return optuna.samplers.TPESampler(n_startup_trials=begin, constant_liar=True, seed=seed)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Under the step of training, where Tune's has the number of reports since the last start."""
        trial = self._ot_trials[trial_id]
        if self.metric in result and result["step"] not in self._scores(trial):
            trial.report(result[self.metric], result["step"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial that was stopped is "pruned" to Optuna; Tune's would call it complete, its score a whole trial's."""
        trial, result = self._ot_trials[trial_id], result or {}
        self.on_trial_result(trial_id, result)  # Tune keeps back the score that stops a trial
        if error:
            return  # the sweep calls `fail`, with the reason
        reason = result.get("failed", "")
        if result.get("finished") and not self._scores(trial):
            reason = f"it ended without a score of {self.metric}"
        if reason:
            self.fail(trial_id, reason)
        elif result.get("finished"):
            scores = self._scores(trial)
            self._ot_study.tell(trial, scores[max(scores)])
        else:
            self._ot_study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial_id: str, reason: str) -> None:
        self._ot_trials[trial_id].set_user_attr(REASON, reason)
        self._ot_study.tell(self._ot_trials[trial_id], state=TrialState.FAIL)

    def _scores(self, trial: optuna.Trial) -> dict[int, float]:
        return dict(self._ot_study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles searchers, to restore them: this one's state is the study's file

    def save(self, checkpoint_path: str) -> None:
        return


class ExactASHA(ASHAScheduler):  # type: ignore[misc]
    """ASHA: at a ninth and a third of the steps (for a factor of 3) a trial continues when it is among the best third
    of those that have come so far, itself counted, or the best. The study tells what earlier processes decided."""

    def __init__(self, study: optuna.Study, metric: str, milestones: Sequence[int], factor: int, steps: int) -> None:
        super().__init__(time_attr="step", metric=metric, mode="max", max_t=steps)
        bracket = _TopShare(milestones[0], milestones[-1], factor, 0, stop_last_trials=False)
        assert [step for step, _ in reversed(bracket._rungs)] == list(milestones)
        self._brackets, self._steps = [bracket], steps
        for trial in study.get_trials(deepcopy=False):
            for step, score in sorted(trial.intermediate_values.items()):
                self._decide(trial.number, step, score)  # of what is decided already, the answer does not matter

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if self.metric not in result or result["step"] >= self._steps:
            return str(self.CONTINUE)
        return self._decide(trial.config[NUMBER], result["step"], result[self.metric])

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        return  # its scores have come before

    def _decide(self, number: int, step: int, score: float) -> str:
        # Trials are known by their numbers, which outlive Tune's ids.
        return str(self._brackets[0].on_result(SimpleNamespace(trial_id=number), step, score))

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _TopShare(_Bracket):  # type: ignore[misc]
    def cutoff(self, recorded: dict[int, float]) -> float | None:
        """The score that a trial must reach. Tune's is an interpolated quantile of the others."""
        places = max(1, (len(recorded) + 1) // int(self.rf))
        scores = sorted(recorded.values(), reverse=True)
        return scores[places - 1] if len(scores) >= places else None
