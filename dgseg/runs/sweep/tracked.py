"""The sweep in MLflow: one parent run, under which the trials' own runs are shown. A server that is down costs the
sweep its parent, not its trials: they keep their journals, as every run does."""

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from dgseg.runs.sweep.record import TrialRecord, best
from dgseg.runs.tracking import mlflow
from dgseg.runs.tracking.files import SETTINGS, STATE, read_json
from dgseg.runs.tracking.listener import MlflowConfig
from dgseg.runs.tracking.mlflow import TrackingWarning
from dgseg.runs.tracking.shipper import replay


class Parent:
    """`found`: the run's id, when the sweep is resumed. `keep` is told a new one's."""

    def __init__(self, config: MlflowConfig, name: str, found: str | None, keep: Callable[[str], None]) -> None:
        uri = str(config.uri)
        self.run_id: str | None = None
        self._stopped: dict[Path, str] = {}  # folders of trials that were cut short -> where
        try:
            self._client = mlflow.connect(uri)
            if found is None:
                experiment = mlflow.experiment(self._client, config.experiment)
                tags = {"sweep": name, **config.source}
                found = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
                keep(found)
            self._client.update_run(found, status="RUNNING")
            self.run_id = found
        except MlflowException as error:
            _warn(f"MLflow at {mlflow.without_password(uri)} does not answer: the sweep has no run there ({error})")

    def start(self, settings: Mapping[str, Any]) -> None:
        def tell(run_id: str) -> None:
            known = self._client.get_run(run_id).data.params
            new = {name: value for name, value in settings.items() if name not in known}
            mlflow.log(self._client, run_id, params=new)

        self._try(tell)

    def ended(self, trial: TrialRecord, trials: list[TrialRecord], folder: Path | None, steps: int) -> None:
        """A trial has: the parent's curve of the best so far, and the mark on a run that was cut short."""

        def tell(run_id: str) -> None:
            top = best(trials)
            done = sum(each.status != "running" for each in trials)
            points = {"trials/ended": float(done)}
            if top is not None and top.score is not None:
                points["best/score"] = top.score
            now = time.time_ns() // 1_000_000
            metrics = [Metric(name, value, now, done) for name, value in points.items()]
            mlflow.log(self._client, run_id, metrics=metrics)

        self._try(tell)
        if trial.status == "stopped":
            self.stopped(trial, folder, steps)

    def stopped(self, trial: TrialRecord, folder: Path | None, steps: int) -> None:
        if folder:
            self._stopped[folder] = f"by the sweep at step {trial.step} of {steps}"
            self._try(lambda _: self._mark(folder))

    def end(self, status: str, summary: str, folder: Path | None, files: tuple[str, ...]) -> None:
        def tell(run_id: str) -> None:
            for settings in sorted(folder.glob(f"*/mlflow/{SETTINGS}")) if folder else ():
                self._complete(settings.parent.parent)
            self._client.set_tag(run_id, "mlflow.note.content", summary)
            for name in files:
                if folder and (folder / name).exists():
                    self._client.log_artifact(run_id, str(folder / name))
            self._client.set_terminated(run_id, status)

        self._try(tell)

    def _complete(self, trial: Path) -> None:
        """What a trial's own process had no time to send."""
        try:
            replay(trial)
        except ValueError as error:  # it is still being sent
            _warn(str(error))
        self._mark(trial)

    def _mark(self, trial: Path) -> None:
        known = read_json(trial / "mlflow" / STATE).get("run_id")
        if known and trial in self._stopped:
            self._client.set_tag(known, "stopped", self._stopped[trial])

    def _try(self, tell: Callable[[str], None]) -> None:
        if self.run_id is None:
            return
        try:
            tell(self.run_id)
        except (MlflowException, OSError) as error:
            _warn(f"MLflow's record of this sweep lacks something: {error}")


def _warn(message: str) -> None:
    warnings.warn(message, TrackingWarning, stacklevel=3)
