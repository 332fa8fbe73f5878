"""The sweep in MLflow: one parent run, under which the trials' own runs are shown. A server that is down costs the
sweep its parent, not its trials: they keep their spools, as every run does."""

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from dgseg.runs.sweep.record import TrialRecord, best
from dgseg.runs.tracking import place
from dgseg.runs.tracking.follow import replay
from dgseg.runs.tracking.listener import MlflowConfig, TrackingWarning
from dgseg.runs.tracking.spool import CLOSING, IDENTITY, read_json

_TEXT = 6000  # bytes that MLflow keeps of a parameter


class Parent:
    """`found`: the run's id, when the sweep goes on. `keep` is told a new one's."""

    def __init__(self, config: MlflowConfig, name: str, found: str | None, keep: Callable[[str], None]) -> None:
        place.use_short_timeouts()
        assert config.uri is not None
        self.config, self.uri = config, config.uri
        self.run_id: str | None = None
        self._stopped: dict[Path, str] = {}  # spools of trials that were cut short -> where
        try:
            self._client = MlflowClient(self.uri)
            if found is None:
                found = self._client.create_run(self._experiment(), run_name=name, tags={"sweep": name}).info.run_id
                keep(found)
            self._client.update_run(found, status="RUNNING")
            self.run_id = found
        except MlflowException as error:
            _warn(f"MLflow at {place.without_password(self.uri)} does not answer: the sweep has no run there ({error})")

    def start(self, settings: Mapping[str, Any]) -> None:
        def tell(run_id: str) -> None:
            known = self._client.get_run(run_id).data.params
            params = [Param(name, str(value)[:_TEXT]) for name, value in settings.items() if name not in known]
            self._client.log_batch(run_id, params=params)

        self._told(tell)

    def ended(self, trial: TrialRecord, trials: list[TrialRecord], folder: Path | None, steps: int) -> None:
        """A trial has: the parent's curve of the best so far, and the mark on a run that was cut short."""

        def tell(run_id: str) -> None:
            top = best(trials)
            done = sum(each.status != "running" for each in trials)
            points = {"trials/ended": float(done)}
            if top is not None and top.score is not None:
                points["best/score"] = top.score
            now = time.time_ns() // 1_000_000
            self._client.log_batch(run_id, metrics=[Metric(name, value, now, done) for name, value in points.items()])

        self._told(tell)
        if trial.status == "stopped":
            self.stopped(trial, folder, steps)

    def stopped(self, trial: TrialRecord, folder: Path | None, steps: int) -> None:
        if folder:
            spool = place.spool_folder(str(folder))
            self._stopped[spool] = f"by the sweep at step {trial.step} of {steps}"
            self._told(lambda _: self._mark(spool))

    def end(self, status: str, summary: str, folder: Path | None, files: tuple[str, ...]) -> None:
        def tell(run_id: str) -> None:
            for closing in sorted(folder.glob(f"*/*/{CLOSING}")) if folder else ():
                self._complete(closing.parent)
            self._client.set_tag(run_id, "mlflow.note.content", summary)
            for name in files:
                if folder and (folder / name).exists():
                    self._client.log_artifact(run_id, str(folder / name))
            self._client.set_terminated(run_id, status)

        self._told(tell)

    def _complete(self, spool: Path) -> None:
        """What a trial's own process had no time to send."""
        try:
            replay(spool)
        except ValueError as error:  # it is still being sent
            _warn(str(error))
        self._mark(spool)

    def _mark(self, spool: Path) -> None:
        known = read_json(spool / IDENTITY).get("run_id")
        if known and spool in self._stopped:
            self._client.set_tag(known, "stopped", self._stopped[spool])

    def _told(self, tell: Callable[[str], None]) -> None:
        if self.run_id is None:
            return
        try:
            tell(self.run_id)
        except (MlflowException, OSError) as error:
            _warn(f"MLflow's record of this sweep lacks something: {error}")

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.config.experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self.config.experiment, place.artifacts_of(self.uri)))


def _warn(message: str) -> None:
    warnings.warn(message, TrackingWarning, stacklevel=3)
