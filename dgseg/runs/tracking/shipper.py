"""A run's journal, brought to MLflow by a process of its own: a server that hangs, a database that migrates and
MLflow's own work take neither a step nor Python's lock from training.

    python -m dgseg.runs.tracking.shipper FOLDER PID      FOLDER/mlflow, until the run of process PID has ended

Beside the journal (dgseg/training/journal.py), in FOLDER/mlflow:

    settings.json     where to, and under which parent; written by training (listener.py)
    state.json        how far it has come: offsets, MLflow's id of the run, what ails it; written here
    system.jsonl      processor, memory, disk, network and GPUs; written here
    refused.jsonl     what MLflow would not take
    lock              held by the one process that sends

Every point arrives once. What may have arrived before a connection broke is sent again: MLflow keeps one of two equal
points, and points that are not newer than the run's newest of their name are left out, which also covers the steps that
a resumed run trains again.
"""

import fcntl
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException

from dgseg.runs.tracking import content, mlflow, model
from dgseg.runs.tracking.files import (
    JOURNAL,
    REFUSED,
    SETTINGS,
    STATE,
    SYSTEM,
    Entry,
    Tail,
    append,
    read_json,
    write_json,
)
from dgseg.runs.tracking.system import SystemSampler

RUN_KEY = "mlflow.dgseg.run"  # the tag by which a run is found again; MLflow's pages hide what begins with mlflow
_TRIES = 5  # of an upload that fails while the server answers everything else, before it is set aside
_PAUSE, _LONGEST_PAUSE = 1.0, 15.0  # seconds between two looks at the journal; while the server is away
_ORPHAN = 20.0  # seconds for what is left when training has vanished
# The server has understood, and will never take it.
_FINAL = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}


class Shipper:
    def __init__(self, record: Path, uri: str | None = None) -> None:
        """record: the folder of the journal."""
        self.record, self.folder = record, record / "mlflow"
        self.settings = read_json(self.folder / SETTINGS)
        if not self.settings:
            raise ValueError(f"{self.folder} holds no {SETTINGS}: {record} is not the folder of a run kept in MLflow")
        self.uri = uri or self.settings["uri"]
        self.state: dict[str, Any] = {"refused": 0, **read_json(self.folder / STATE)}
        self.start: Entry = {}  # the newest
        self.started: dict[str, int] = {}  # key of a run -> when it first began
        self.ended = False  # so has the newest session of the run
        self._nonfinite = 0
        self._tails = {name: Tail(self.record / name) for name in (JOURNAL, f"mlflow/{SYSTEM}")}
        self._connection: MlflowClient | None = None
        self._run: Run | None = None
        self._newest: dict[str, int] = {}  # metric -> its last step that has arrived
        self._failures: dict[str, int] = {}

    @property
    def client(self) -> MlflowClient:
        self._connection = self._connection or mlflow.connect(self.uri)
        return self._connection

    def send(self) -> None:
        """All that is there. Raises when the server does not answer; a later call resumes where this one stopped."""
        try:
            for name, tail in self._tails.items():
                while lines := tail.read():
                    self._ship(name, lines)
                    tail.offset = lines[-1][0]
        except Exception:
            # What has arrived and what not, only the server can say: asked on the next attempt, which reads it all.
            self._run, self._nonfinite = None, 0
            for tail in self._tails.values():
                tail.offset = 0
            raise

    def _ship(self, name: str, lines: list[tuple[int, Entry]]) -> None:
        points: list[Metric] = []
        for end, entry in lines:
            if "time" not in entry:  # as journals were before they were shipped
                continue
            more_than_points = entry["kind"] not in ("step", "system")
            if more_than_points:
                self._log(points)
                points = []
            self._follow(entry)
            own = self._points(entry)
            if end <= self.state.get(name, 0):
                continue
            points += own
            if more_than_points:
                self._log(points)
                points = []
                for what, action in self._actions(entry):
                    self._try(what, action, entry)
                self.note({name: end})
        self._log(points)
        self.note({name: max(lines[-1][0], self.state.get(name, 0))})

    def _follow(self, entry: Entry) -> None:
        """Where the journal is, whether or not this line has been sent already."""
        if entry["kind"] == "start":
            if entry["key"] != self.start.get("key"):
                self._run = None
            self.started.setdefault(entry["key"], entry["time"])
            self.start, self.ended = entry, False
        elif entry["kind"] == "end":
            self.ended = True

    def _points(self, entry: Entry) -> list[Metric]:
        if entry.get("run", self.start["key"]) != self.start["key"]:  # of an earlier run of this name
            return []
        values = content.metrics(entry)
        finite = {name: value for name, value in values.items() if abs(value) < float("inf")}
        if len(finite) < len(values):
            self._nonfinite += len(values) - len(finite)
            finite["nonfinite_metrics"] = self._nonfinite
        return [Metric(name, value, entry["time"], entry["step"]) for name, value in finite.items()]

    def _log(self, points: list[Metric]) -> None:
        run = self.run() if points else None
        fresh = [each for each in points if each.step > self._newest.get(each.key, -1)]
        if run is None or not fresh:
            return
        try:
            mlflow.log(self.client, run.info.run_id, metrics=fresh)
        except MlflowException as error:
            if error.error_code not in _FINAL:
                raise
            if len(fresh) > 1:  # one of many is wrong: each by itself
                for each in fresh:
                    self._log([each])
                return
            self._set_aside(fresh[0].key, error, dict(fresh[0]))
        for each in fresh:
            self._newest[each.key] = max(each.step, self._newest.get(each.key, -1))

    def _actions(self, entry: Entry) -> Iterator[tuple[str, Callable[[], None]]]:
        """What a line asks of MLflow beside its points; all of it may be done twice."""
        client, run = self.client, self.run().info.run_id

        def tags(values: dict[str, str]) -> tuple[str, Callable[[], None]]:
            return "tags", lambda: mlflow.log(client, run, tags=values)

        def upload(name: str, to: str | None = None) -> tuple[str, Callable[[], None]]:
            return name, lambda: client.log_artifact(run, str(self._file(name)), to)

        def text(name: str, written: str) -> tuple[str, Callable[[], None]]:
            return name, lambda: client.log_text(run, written, name)

        if entry["kind"] == "start":
            # A parameter cannot change in MLflow: of a resumed run those that are there stay.
            params = {key: value for key, value in entry["recipe"].items() if key not in self.run().data.params}
            yield "status", lambda: client.update_run(run, status="RUNNING")
            yield "parameters", lambda: mlflow.log(client, run, params=params)
            yield tags(content.tags(entry))
            for name, value in self.settings["tags"].items():
                yield tags({name: value})
            if entry["datasets"]:
                yield "datasets", lambda: client.log_inputs(run, content.datasets(entry))
            yield upload("recipe.yaml")
        elif entry["kind"] == "scores":
            folder = "scores/test" if entry["final"] else f"scores/validation/step-{entry['step']:06d}"
            yield text(f"{folder}/scores.csv", content.scores_table(entry))
            yield text(f"{folder}/iou-per-class.csv", content.per_class_table(entry))
            if entry["final"]:
                yield tags({"mlflow.note.content": content.note(self.start, entry)})
                for name in entry["pictures"].values():
                    yield upload(name, "predictions/test")
        elif entry["kind"] == "checkpoint":
            yield text(f"checkpoints/step-{entry['step']:06d}.json", content.checkpoint(entry))
            yield tags({"checkpoint": entry["path"]})
        elif entry["kind"] == "profile":
            yield tags({"profile": ", ".join(entry["files"])})
        elif entry["kind"] == "end":
            if entry["weights"]:
                yield entry["weights"], lambda: self._model(entry)
            yield tags({"ended": ": ".join(filter(None, (entry["status"], entry["reason"])))})
            status = content.STATUS[entry["status"]]
            yield "status", lambda: client.set_terminated(run, status, entry["time"])

    def _try(self, what: str, action: Callable[[], None], entry: Entry) -> None:
        try:
            action()
            self._failures.pop(what, None)
        except MlflowException as error:
            if error.error_code not in _FINAL:
                self._give_up(what, error, entry)
            else:
                self._set_aside(what, error, entry)
        except FileNotFoundError as error:
            self._set_aside(what, error, entry)
        except Exception as error:
            self._give_up(what, error, entry)

    def _give_up(self, what: str, error: Exception, entry: Entry) -> None:
        """An upload may fail for reasons of its own; all else waits for the server."""
        self._failures[what] = self._failures.get(what, 0) + 1
        if what in ("status", "parameters", "tags") or self._failures[what] < _TRIES:
            raise error
        self._set_aside(what, error, entry)

    def _set_aside(self, what: str, error: Exception, entry: Any) -> None:
        append(self.folder / REFUSED, {"what": what, "reason": str(error), "entry": entry})
        self._failures.pop(what, None)
        self.note({"refused": self.state["refused"] + 1})

    def run(self) -> Run:
        """MLflow's; found, or begun, with what it holds already."""
        if self._run is None:
            key = self.start["key"]
            known = self.state.get("run_id") if self.state.get("key") == key else None
            self._run = self._known(known) or mlflow.open_run(
                self.client,
                self.settings["experiment"],
                self.start["name"],
                (RUN_KEY, key),
                self.settings["parent"],
                self.started[key],
            )
            # The one place where a run's newest steps stand, short of asking for each metric's history.
            self._newest = {metric.key: metric.step for metric in self._run.data._metric_objs}
            info = self._run.info
            self.note({"key": key, "run_id": info.run_id, "experiment_id": info.experiment_id, "trouble": None})
        return self._run

    def _known(self, run_id: str | None) -> Run | None:
        if run_id is None:
            return None
        try:
            return mlflow.living(self.client.get_run(run_id))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):  # another server than last time
                return None
            raise

    def note(self, news: dict[str, Any]) -> None:
        """Into state.json: also for the training process, which tells the user."""
        if any(self.state.get(name) != value for name, value in news.items()):
            self.state |= news
            write_json(self.folder / STATE, self.state)

    def finish(self) -> None:
        """All of it has arrived. Training that is gone without a word was killed, or its machine was."""
        if not self.ended and self.start:
            self.client.set_terminated(self.run().info.run_id, "KILLED")
        if self.ended and self.settings["copies"]:  # of a run behind a URI
            for path in self.record.iterdir():
                if path.is_file() and path.name != JOURNAL:
                    path.unlink()

    def _file(self, name: str) -> Path:
        """Of the run; a folder from elsewhere must not send what lies outside it."""
        path = self.record / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise FileNotFoundError(f"{path} is no file of this run any more")
        return path

    def _model(self, entry: Entry) -> None:
        weights, run = self._file(entry["weights"]), self.run()
        model.log(self.client, run, weights, self.settings["model"], entry["step"], self.folder)


@contextmanager
def _alone(folder: Path, wait: bool) -> Iterator[None]:
    """One process sends. A link in the lock's place is not followed."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait:
                    raise ValueError(f"{folder} is being sent by a run that is alive: wait until it ends") from None
                time.sleep(_PAUSE)  # the shipper of an earlier process of this run is just ending
            except OSError:  # a file system without locks: a second start on one name is refused by training itself
                break
        yield
    finally:
        os.close(descriptor)


def replay(folder: Path, uri: str | None = None) -> Shipper:
    """Everything that waits in a run's folder, now. Raises where the server does not answer; all of it is kept."""
    record = folder if (folder / "mlflow" / SETTINGS).exists() else folder.parent
    shipper = Shipper(record, uri)
    with _alone(shipper.folder, wait=False):
        shipper.send()
        shipper.finish()
    return shipper


def follow(record: Path, parent: int) -> int:
    """Until the run has ended and all of it has arrived (0), or training is gone and the server does not answer (1)."""
    os.nice(10)
    with _alone(record / "mlflow", wait=True):
        shipper = Shipper(record)
        sampler = SystemSampler(shipper.folder / SYSTEM, shipper.settings["system_interval"])
        pause, gone_since = _PAUSE, None
        while True:
            if gone_since is None and os.getppid() != parent:
                gone_since = time.monotonic()
            try:
                began = time.monotonic()
                shipper.send()
                shipper.note({"trouble": None})
                if shipper.ended or gone_since is not None:  # the next start may be writing already
                    shipper.finish()
                    return 0
                # Never more than a hundredth of a core: a local database is written by this very process.
                pause = min(max(_PAUSE, 100 * (time.monotonic() - began)), _LONGEST_PAUSE)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                print(reason, file=sys.stderr, flush=True)
                with suppress(OSError):
                    shipper.note({"trouble": reason})
                if gone_since is not None and time.monotonic() - gone_since > _ORPHAN:
                    return 1
                pause = min(2 * pause, _LONGEST_PAUSE)
            until = time.monotonic() + pause
            while time.monotonic() < until and not _told() and (gone_since is not None or os.getppid() == parent):
                if gone_since is None and not shipper.ended and shipper.start:
                    key = shipper.start["key"]
                    sampler.sample_if_due(key, shipper.started[key])


def _told(wait: float = 0.2) -> bool:
    """Training writes a line when it has ended, and waits then."""
    ready, _, _ = select.select([sys.stdin], [], [], wait)
    if ready and sys.stdin.readline():
        return True
    if ready:  # closed: nothing more comes
        time.sleep(wait)
    return False


if __name__ == "__main__":
    raise SystemExit(follow(Path(sys.argv[1]), int(sys.argv[2])))
