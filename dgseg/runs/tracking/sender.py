"""A spool, brought to MLflow.

Every point arrives once. What may have arrived before a connection broke is sent again: MLflow keeps one of two equal
points, and points that are not newer than the run's newest of their name are left out, which also covers the steps that
a continued run trains again.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.validation import (
    MAX_DATASET_DIGEST_SIZE,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
    MAX_TAG_VAL_LENGTH,
)

from dgseg.runs.tracking import model
from dgseg.runs.tracking.place import artifacts_of
from dgseg.runs.tracking.spool import (
    FILES,
    IDENTITY,
    REFUSED,
    STATE,
    Entry,
    Reader,
    read_json,
    write_json,
)

# The tag by which a run is found again whose creation was never confirmed; MLflow's pages hide what begins with mlflow.
RUN_KEY = "mlflow.dgseg.run"
STREAMS = ("training", "system")

# What may fail for reasons of its own while the server answers everything else: it is tried so often, then set aside.
_SINGLE, _TRIES = {"file", "model", "datasets"}, 5
# The server has understood, and will never take it.
_FINAL = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}


class Refused(Exception):
    """This entry will never be taken; the others may."""


class Sender:
    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.folder = folder
        self.identity = read_json(folder / IDENTITY)
        if not self.identity:
            raise ValueError(f"{folder} holds no {IDENTITY}: it is not the mlflow folder of a run")
        self.uri = uri or self.identity["uri"]
        self.refused = 0
        self.closed = False  # the newest session of the run has ended
        self._client = MlflowClient(self.uri)
        self._readers = {stream: Reader(folder, stream) for stream in STREAMS}
        self._waiting: dict[str, list[Entry]] = {stream: [] for stream in STREAMS}
        self._failures = 0
        self._run: Run | None = None
        self._newest: dict[str, int] = {}  # metric -> its last step that has arrived

    @property
    def run(self) -> Run:
        assert self._run is not None, "attach() comes first"
        return self._run

    def send(self) -> None:
        """All that is there. Raises when the server does not answer; a later call goes on where this one stopped."""
        for stream, reader in self._readers.items():
            waiting = self._waiting[stream]
            while waiting or (waiting := reader.read()):
                self._waiting[stream] = waiting
                if self._run is None:
                    self.attach()
                try:
                    while waiting:
                        del waiting[: self._deliver(waiting)]
                        self._failures = 0
                except Refused as error:
                    self._set_aside(waiting.pop(0), error)
                except Exception as error:
                    # What has arrived and what not, only the server can say: asked on the next attempt.
                    self._run = None
                    self._failures += 1
                    if self._failures < _TRIES or waiting[0]["op"] not in _SINGLE:
                        raise
                    self._set_aside(waiting.pop(0), error)
            reader.confirm()

    def attach(self) -> None:
        """Finds the run, or makes it, and what it holds already."""
        experiment = self._experiment()
        run = self._known_run() or self._run_by_key(experiment)
        if run is None:
            run = self._client.create_run(
                experiment,
                start_time=self.identity["started"],
                run_name=self.identity["name"],
                tags={RUN_KEY: self.identity["key"], **self.identity["tags"]},
            )
        if run.info.lifecycle_stage == "deleted":
            raise MlflowException(
                f"the run {run.info.run_id} was deleted in MLflow: `mlflow runs restore --run-id {run.info.run_id}` "
                f"brings it back; without {self.folder} the next start makes a new one"
            )
        # The one place where a run's newest steps stand, short of asking for each metric's history.
        self._newest = {metric.key: metric.step for metric in run.data._metric_objs}
        self._run = run
        if self.identity.get("run_id") != run.info.run_id:
            self.identity = {
                **self.identity,
                "run_id": run.info.run_id,
                "experiment_id": run.info.experiment_id,
            }
            write_json(self.folder / IDENTITY, self.identity)
        self.note(None)

    def note(self, trouble: str | None) -> None:
        """For the training process, which tells the user."""
        state = {"trouble": trouble, "refused": self.refused}
        if read_json(self.folder / STATE) != state:
            write_json(self.folder / STATE, state)

    def abandon(self) -> None:
        """Training is gone without a word: killed, or its machine was."""
        if self._run is not None and not self.closed:
            self._client.set_terminated(self.run.info.run_id, "KILLED")

    def finish(self) -> None:
        """All of it has arrived and nobody writes any more: the run's identity stays, and what was refused."""
        for reader in self._readers.values():
            reader.finish()
        self.note(None)
        with suppress(OSError):  # something new lies in it
            (self.folder / FILES).rmdir()

    def _experiment(self) -> str:
        name = self.identity["experiment"]
        found = self._client.get_experiment_by_name(name)
        if found is None:
            with suppress(MlflowException):  # another run was quicker
                return str(self._client.create_experiment(name, artifacts_of(self.uri)))
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise MlflowException(f"the experiment {name!r} can be neither found nor made")
        if found.lifecycle_stage == "deleted":
            raise MlflowException(
                f"the experiment {name!r} was deleted in MLflow: "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}` brings it back"
            )
        return str(found.experiment_id)

    def _known_run(self) -> Run | None:
        if not (run_id := self.identity.get("run_id")):
            return None
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):  # another server than last time
                return None
            raise

    def _run_by_key(self, experiment: str) -> Run | None:
        found = self._client.search_runs(
            [experiment], f"tags.`{RUN_KEY}` = '{self.identity['key']}'", ViewType.ALL, max_results=1
        )
        return self._client.get_run(found[0].info.run_id) if found else None

    def _set_aside(self, entry: Entry, error: Exception) -> None:
        self.refused += 1
        self._failures = 0
        with (self.folder / REFUSED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"reason": str(error), "entry": entry}, ensure_ascii=False) + "\n")

    def _deliver(self, entries: list[Entry]) -> int:
        """The first entry, or as many metrics as go into one request; how many it was."""
        together = max(1, _points_that_fit(entries))
        try:
            if entries[0]["op"] == "metrics":
                self._metrics(entries[:together])
            else:
                getattr(self, f"_{entries[0]['op']}")(entries[0])
        except MlflowException as error:
            if error.error_code not in _FINAL:
                raise
            if together == 1:
                raise Refused(error.message) from error
            return self._deliver(entries[:1])  # one of many is wrong: each by itself, until it is the first
        return together

    def _metrics(self, entries: list[Entry]) -> None:
        batch = [
            Metric(key, value, entry["time"], entry["step"])
            for entry in entries
            for key, value in entry["values"].items()
            if entry["step"] > self._newest.get(key, -1)
        ]
        for part in _chunks(batch, MAX_METRICS_PER_BATCH):
            self._client.log_batch(self.run.info.run_id, metrics=part, synchronous=True)
            for metric in part:
                self._newest[metric.key] = max(metric.step, self._newest.get(metric.key, -1))

    def _open(self, entry: Entry) -> None:
        self.closed = False
        self._client.update_run(self.run.info.run_id, status="RUNNING")

    def _params(self, entry: Entry) -> None:
        """A parameter cannot change in MLflow: of a continued run those that are there stay."""
        new = [
            Param(key, _cut(value, MAX_PARAM_VAL_LENGTH))
            for key, value in entry["values"].items()
            if key not in self.run.data.params
        ]
        for part in _chunks(new, MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(self.run.info.run_id, params=part, synchronous=True)

    def _tags(self, entry: Entry) -> None:
        tags = [RunTag(key, _cut(value, MAX_TAG_VAL_LENGTH)) for key, value in entry["values"].items()]
        for part in _chunks(tags, MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(self.run.info.run_id, tags=part, synchronous=True)

    def _datasets(self, entry: Entry) -> None:
        self._client.log_inputs(
            self.run.info.run_id,
            [
                DatasetInput(
                    Dataset(
                        each["name"],
                        each["digest"][:MAX_DATASET_DIGEST_SIZE],
                        "dgseg",
                        json.dumps(each["source"]),
                        profile=json.dumps(each["profile"]),
                    ),
                    [InputTag("mlflow.data.context", each["context"])],
                )
                for each in entry["datasets"]
            ],
        )

    def _file(self, entry: Entry) -> None:
        path = self.folder / entry["path"]
        if path.exists():  # else it arrived before the sender was stopped
            self._client.log_artifact(self.run.info.run_id, str(path), entry["to"] or None)
            shutil.rmtree(path.parent, ignore_errors=True)

    def _model(self, entry: Entry) -> None:
        weights = self.folder / entry["weights"]
        if not weights.exists():
            return
        run_id, experiment = self.run.info.run_id, self.run.info.experiment_id
        made = self._client.search_logged_models([experiment], f"source_run_id = '{run_id}'", max_results=1)
        logged = (
            made[0]
            if made
            else self._client.create_logged_model(
                experiment, entry["model"]["name"], run_id, tags={"step": str(entry["step"])}, model_type="segmentation"
            )
        )
        if self.run.outputs is None or not self.run.outputs.model_outputs:
            self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, entry["step"])])
        record = Model(
            artifact_path=logged.artifact_location,
            run_id=run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
        )
        with tempfile.TemporaryDirectory(dir=self.folder) as aside:
            model.save(Path(aside) / "model", weights, entry["model"], record)
            self._client.log_model_artifacts(logged.model_id, str(Path(aside) / "model"))
        self._client.finalize_logged_model(logged.model_id, "READY")
        shutil.rmtree(weights.parent, ignore_errors=True)

    def _close(self, entry: Entry) -> None:
        self._client.set_terminated(self.run.info.run_id, entry["status"], entry["time"])
        self.closed = True


def _points_that_fit(entries: list[Entry]) -> int:
    """How many of the first entries are metrics and go into one request together."""
    points = 0
    for count, entry in enumerate(entries):
        points += len(entry["values"]) if entry["op"] == "metrics" else MAX_METRICS_PER_BATCH + 1
        if points > MAX_METRICS_PER_BATCH:
            return count
    return len(entries)


def _chunks(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
