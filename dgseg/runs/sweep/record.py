"""What a sweep knows: Optuna's study, kept in one file of the sweep's folder.

Everything else follows from it: what is proposed next, which trials stop at a milestone, the table, the summary. So a
sweep that is killed at any moment resumes from there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from dgseg.runs.sweep.space import Parameter
from dgseg.training.storage import Storage

FILE = "trials.jsonl"
NAME = "sweep"  # of the only study in it
REASON = "reason"  # why a trial failed
# "stopped" is at a milestone; "running" in the record of a sweep that no process runs: interrupted.
Status = Literal["running", "finished", "stopped", "failed"]
_STATUS: Mapping[TrialState, Status] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


class _Journal(BaseJournalBackend):  # type: ignore[misc]
    """A file that is written whole and renamed into place, on a disk or in a bucket."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        text = folder.read(FILE).decode() if folder.exists(FILE) else ""
        self._lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._lines += logs
        self._folder.write(FILE, "".join(json.dumps(line) + "\n" for line in self._lines).encode())


def open_study(folder: Storage) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(_Journal(folder))
    if folder.exists(FILE):  # nothing is written: another process may be at work in it
        return optuna.load_study(storage=storage, study_name=NAME)
    return optuna.create_study(storage=storage, study_name=NAME, direction="maximize")


@dataclass(frozen=True)
class TrialRecord:
    number: int
    values: dict[str, Any]  # dotted name -> value
    status: Status = "running"
    scores: dict[int, float] = field(default_factory=dict)  # step -> the objective
    reason: str = ""  # of a failure
    seconds: float = 0.0  # from its start to its end

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


def trial_name(number: int) -> str:
    """Of its run."""
    return f"trial-{number:03d}"


def trials(study: optuna.Study) -> list[TrialRecord]:
    """Those that have begun."""
    return [_record(each) for each in study.get_trials(deepcopy=False) if each.state in _STATUS]


def _record(trial: FrozenTrial) -> TrialRecord:
    return TrialRecord(
        trial.number,
        dict(trial.params),
        _STATUS[trial.state],
        dict(trial.intermediate_values),
        trial.user_attrs.get(REASON, ""),
        trial.duration.total_seconds() if trial.duration else 0.0,
    )


def best(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Of the finished ones: a trial that was stopped has seen less training, and its score says less."""
    finished = [each for each in trials if each.status == "finished" and each.score is not None]
    return max(finished, key=lambda each: each.score or 0.0, default=None)


def common_step(trials: Sequence[TrialRecord]) -> int:
    """The last at which every scored trial has a score; 0 where there is none. Only there do all of them compare."""
    scored = [set(each.scores) for each in trials if each.scores]
    return max(set.intersection(*scored), default=0) if scored else 0


def study_at(step: int, trials: Sequence[TrialRecord], parameters: Sequence[Parameter]) -> optuna.Study:
    """The trials' scores at this step, as Optuna's importances and plots read them."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            create_trial(
                value=each.scores[step],
                params={one.name: each.values[one.name] for one in parameters},
                distributions={one.name: one.distribution for one in parameters},
            )
            for each in trials
            if step in each.scores
        ]
    )
    return study
