"""What a sweep knows: one file, trials.json, written anew after every event. All else follows from it: what the
searcher proposes next, which trials are cut at a milestone, the table, the summary. So a sweep that is killed at any
moment goes on from there.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from dgseg.runs.sweep.space import Parameter
from dgseg.training.storage import Storage

FILE = "trials.json"
# "stopped" is by a milestone; "running" in the record of a sweep that nobody runs: interrupted.
Status = Literal["running", "finished", "stopped", "failed"]
_STATES = {
    "running": TrialState.RUNNING,
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def trial_name(number: int) -> str:
    """Of its run."""
    return f"trial-{number:03d}"


@dataclass
class TrialRecord:
    number: int
    values: dict[str, Any]  # dotted name -> value
    status: Status = "running"
    scores: dict[int, float] = field(default_factory=dict)  # step -> the objective
    reason: str = ""  # of a failure
    seconds: float = 0.0  # that it has run, over all its stretches
    cut: bool = False  # a milestone has decided that it stops, which it does a moment later

    @property
    def name(self) -> str:
        return trial_name(self.number)

    @property
    def step(self) -> int:
        return max(self.scores, default=0)

    @property
    def score(self) -> float | None:
        """The newest."""
        return self.scores[self.step] if self.scores else None


class Record:
    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self.trials: list[TrialRecord] = []
        if folder.exists(FILE):
            for each in json.loads(folder.read(FILE)):
                scores = {int(step): score for step, score in each.pop("scores").items()}
                self.trials.append(TrialRecord(**each, scores=scores))

    def save(self) -> None:
        self._folder.write(FILE, (json.dumps([asdict(each) for each in self.trials], indent=1) + "\n").encode())

    def of(self, *statuses: Status) -> list[TrialRecord]:
        return [each for each in self.trials if each.status in statuses]


def best(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Of the finished ones: a trial that was cut short has seen less training, and its score says less."""
    finished = [each for each in trials if each.status == "finished" and each.score is not None]
    return max(finished, key=lambda each: each.score or 0.0, default=None)


def study(
    trials: Sequence[TrialRecord], parameters: Sequence[Parameter], sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study:
    """The record as Optuna reads it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = optuna.create_study(direction="maximize", sampler=sampler)
    found.add_trials([_frozen(each, parameters) for each in trials])
    return found


def _frozen(trial: TrialRecord, parameters: Sequence[Parameter]) -> FrozenTrial:
    return create_trial(
        state=_STATES[trial.status],
        value=trial.score if trial.status in ("finished", "stopped") else None,
        params={each.name: trial.values[each.name] for each in parameters},
        distributions={each.name: each.distribution for each in parameters},
        intermediate_values=trial.scores,
    )
