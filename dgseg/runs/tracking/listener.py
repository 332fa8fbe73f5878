"""A run's record in MLflow, from what the training loop reports.

Nothing here talks to MLflow: every report is appended to a spool in the run's folder (spool.py), and a process of its
own brings it to the server (follow.py). A server that is slow, down or gone costs training nothing; what it has not
confirmed when the run ends stays in the spool, for `dgseg tracking replay` or the next start of the same run.
"""

import functools
import math
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import dgseg
from dgseg.evaluation.protocols import PROTOCOLS
from dgseg.recipes import to_yaml
from dgseg.runs.tracking import facts, place, tables
from dgseg.runs.tracking.spool import CLOSING, FILES, IDENTITY, STATE, Writer, read_json, write_json
from dgseg.training.listener import CheckpointReport, Listener, RunEnd, RunStart, ScoreReport, StepReport
from dgseg.training.storage import Storage, run_folder

Report = TypeVar("Report")

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_KNOWN_BY = ("key", "started", "run_id")
_LOOK_EVERY = 5.0  # seconds between two looks at how the sender fares
_UPLOAD = 300.0  # seconds for what a server that answers still takes in when the run ends: weights


class TrackingWarning(UserWarning):
    """The record in MLflow lags behind or lacks something; training goes on."""


@dataclass(frozen=True)
class MlflowConfig:
    uri: str | None = None
    """of the tracking server or database; None: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in the current folder"""
    experiment: str = "dgseg"
    """the experiment that runs are filed under"""
    parent: str | None = None
    """id of the run that this one is shown under: a sweep's"""
    tags: Mapping[str, str] = field(default_factory=dict)
    """more tags for the run"""
    system_interval: float = 10.0
    """seconds between two samples of processor, memory, disk, network and GPUs; 0: none"""
    wait: float = 20.0
    """seconds to wait for a server that does not answer when the run ends"""

    def resolved(self) -> "MlflowConfig":
        """The same from every folder and machine: call it where the user stands, not on a worker."""
        return replace(
            self, uri=place.absolute(self.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
        )

    def build(self) -> "MlflowListener":
        return MlflowListener(self)

    def how_to_open(self, folder: Storage) -> str:
        """One line for the user on the run that this folder holds."""
        listener = self.build()
        listener._identity = place.identity_in(folder, IDENTITY)
        return listener.how_to_open()


def _harmless(method: Callable[["MlflowListener", Report], None]) -> Callable[["MlflowListener", Report], None]:
    """Troubles of the record are told, not raised: what a listener raises stops the run."""

    @functools.wraps(method)
    def guarded(self: "MlflowListener", report: Report) -> None:
        try:
            method(self, report)
        except Exception as error:
            self._warn(f"MLflow's record of this run lacks something ({method.__name__}): {error}")

    return guarded


class MlflowListener(Listener):
    def __init__(self, config: MlflowConfig) -> None:
        self.config = config.resolved()
        assert self.config.uri is not None
        self.uri = self.config.uri
        self.spool: Path | None = None
        self._identity: dict[str, Any] = {}
        self._writer: Writer | None = None
        self._sender: subprocess.Popen[bytes] | None = None
        self._nonfinite = 0
        self._files = 0
        self._looked = 0.0
        self._told: set[str] = set()
        self._names: dict[str, str] = {}
        self._model: dict[str, Any] = {}

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the server has answered once."""
        if "run_id" not in self._identity and self.spool is not None:
            known = read_json(self.spool / IDENTITY)
            if known.get("key") == self._identity.get("key"):
                self._identity = known
        return self._identity.get("run_id")

    def how_to_open(self) -> str:
        """One line for the user: an address, or the command that serves one and the address there."""
        shown = place.without_password(self.uri)
        page = ""
        if self.run_id is not None:  # without the workflow the page looks for chats instead of training runs
            page = f"#/experiments/{self._identity['experiment_id']}/runs/{self.run_id}?workflowType=machine_learning"
        if self.uri.startswith("http"):
            return f"{shown.rstrip('/')}/{page}"
        return f"mlflow ui --backend-store-uri {shown}, then http://127.0.0.1:5000/{page}"

    @_harmless
    def on_start(self, start: RunStart) -> None:
        recipe = facts.parameters(start.recipe)
        self.spool = place.spool_folder(start.folder)
        folder = run_folder(start.folder, start.run.storage, start.name)
        # The folder knows best; a checkpoint that was moved to another folder still knows its run.
        known = place.identity_in(folder, IDENTITY) or self._identity
        if start.step == 0 and known.get("recipe", recipe) != recipe:  # the same name for another run
            self.spool.rename(self.spool.with_name(f"mlflow-{known['key'][:8]}"))
            known = {}
        self._identity = {
            "key": uuid.uuid4().hex,
            "started": time.time_ns() // 1_000_000,
            **known,
            "name": start.name,
            "uri": place.without_password(self.uri),
            "experiment": self.config.experiment,
            "tags": {"mlflow.parentRunId": self.config.parent} if self.config.parent else {},
            "system_interval": self.config.system_interval,
            "recipe": recipe,
        }
        self.spool.mkdir(parents=True, exist_ok=True)
        for old in (CLOSING, STATE):
            (self.spool / old).unlink(missing_ok=True)
        write_json(self.spool / IDENTITY, self._identity)
        place.keep_identity(folder, self._identity)
        self._writer = Writer(self.spool, "training")
        self._files = max((int(path.name) for path in (self.spool / FILES).glob("*")), default=0)
        self._append(op="open")
        self._append(op="params", values=recipe)
        self._append(
            op="tags",
            values={
                **facts.tags(start),
                **self.config.tags,
                "mlflow.note.content": tables.note_at_start(start),
            },
        )
        if start.datasets:
            self._append(op="datasets", datasets=[tables.dataset(role, each) for role, each in start.datasets.items()])
        self._text("recipe.yaml", to_yaml(start.recipe), "")
        self._model = _model_description(start)
        self._start = start
        self._sender = self._start_sender(self.spool)

    @_harmless
    def on_step(self, report: StepReport) -> None:
        values = {f"loss/{'total' if name == 'loss' else name}": value for name, value in report.losses.items()}
        values |= {name if "/" in name else f"loop/{name}": value for name, value in report.metrics.items()}
        values |= {"loop/images_per_second": report.images_per_second, "loop/seconds": report.seconds}
        self._metrics(report.step, values)

    @_harmless
    def on_scores(self, report: ScoreReport) -> None:
        self._metrics(report.step, report.named)
        when = "test" if report.final else f"validation/step-{report.step:06d}"
        self._text("scores.csv", tables.scores(report), f"scores/{when}")
        self._text("iou-per-class.csv", tables.per_class_iou(report), f"scores/{when}")
        for name, picture in report.pictures.items():
            self._file(picture, f"{_safe(name)}{picture.suffix}", f"predictions/{when}")
        if report.final:
            self._append(op="tags", values={"mlflow.note.content": tables.note_with_scores(self._start, report)})

    @_harmless
    def on_checkpoint(self, report: CheckpointReport) -> None:
        values = {"checkpoint/seconds_blocked": report.seconds}
        if report.score is not None:
            values["checkpoint/score"] = report.score
        self._metrics(report.step, values)
        self._text(f"step-{report.step:06d}.json", tables.checkpoint(report), "checkpoints")
        self._append(op="tags", values={"checkpoint": report.path})

    @_harmless
    def on_end(self, end: RunEnd) -> None:
        if self.spool is None or self._writer is None:
            return
        if end.weights is not None:
            kept = self._place(end.weights.name)
            try:
                os.link(end.weights, kept)  # many megabytes, which nobody changes any more
            except OSError:
                shutil.copyfile(end.weights, kept)
            path = f"{FILES}/{self._files}/{kept.name}"
            self._append(op="model", weights=path, step=end.step, model=self._model)
        self._append(op="tags", values={"ended": f"{end.status}: {end.reason}" if end.reason else end.status})
        self._append(op="close", status=_STATUS[end.status], time=time.time_ns() // 1_000_000)
        self._writer.close()
        self._writer = None
        (self.spool / CLOSING).touch()
        if not self._wait_for_sender():
            self._warn(
                f"MLflow at {place.without_password(self.uri)} has not confirmed everything. The rest lies in "
                f"{self.spool}; `dgseg tracking replay {self.spool}` sends it"
            )

    def state_dict(self) -> dict[str, Any]:
        if self.run_id is None and not self._identity:
            return {}
        kept: dict[str, Any] = {name: self._identity[name] for name in _KNOWN_BY if name in self._identity}
        return kept | {"nonfinite": self._nonfinite}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._nonfinite = int(state.get("nonfinite", 0))
        self._identity = {name: state[name] for name in _KNOWN_BY if state.get(name) is not None}

    def _metrics(self, step: int, values: Mapping[str, float]) -> None:
        finite = {}
        for name, value in values.items():
            if math.isfinite(value):
                finite[self._names.get(name) or self._names.setdefault(name, _safe(name))] = value
            else:
                self._nonfinite += 1
        if len(finite) < len(values):
            finite["nonfinite_metrics"] = self._nonfinite
        self._append(op="metrics", step=step, time=time.time_ns() // 1_000_000, values=finite)
        self._look()

    def _append(self, **entry: Any) -> None:
        if self._writer is not None:
            self._writer.append(entry)

    def _text(self, name: str, content: str, to: str) -> None:
        self._place(name).write_text(content, encoding="utf-8")
        self._append(op="file", path=f"{FILES}/{self._files}/{name}", to=to)

    def _file(self, path: Path, name: str, to: str) -> None:
        """Copied: the caller may overwrite or delete his own."""
        shutil.copyfile(path, self._place(name))
        self._append(op="file", path=f"{FILES}/{self._files}/{name}", to=to)

    def _place(self, name: str) -> Path:
        assert self.spool is not None
        self._files += 1
        folder = self.spool / FILES / str(self._files)
        folder.mkdir(parents=True)
        return folder / name

    def _start_sender(self, spool: Path) -> "subprocess.Popen[bytes]":
        root = str(Path(dgseg.__file__).resolve().parent.parent)
        environment = {
            **place.HTTP,
            **os.environ,
            "MLFLOW_TRACKING_URI": self.uri,
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
        with (spool / "sender.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dgseg.runs.tracking.follow", str(spool), str(os.getpid())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for training; the sender brings home what training says about it
            )

    def _wait_for_sender(self) -> bool:
        """Whether all has arrived. A server in trouble is waited for a little; one that answers may take weights in."""
        assert self._sender is not None
        assert self.spool is not None
        began = time.monotonic()
        while self._sender.poll() is None:
            answers = read_json(self.spool / STATE).get("trouble", "not begun") is None
            if time.monotonic() - began > (_UPLOAD if answers else self.config.wait):
                self._sender.terminate()
                self._sender.wait()
                return False
            time.sleep(0.05)
        self._look(now=True)
        return self._sender.returncode == 0

    def _look(self, now: bool = False) -> None:
        if self.spool is None or (not now and time.monotonic() - self._looked < _LOOK_EVERY):
            return
        self._looked = time.monotonic()
        state = read_json(self.spool / STATE)
        if state.get("trouble"):
            self._warn(
                f"MLflow at {place.without_password(self.uri)} does not take this run's record. Training goes on, "
                f"everything is kept in {self.spool} and sent when it answers. ({state['trouble']})"
            )
        if state.get("refused"):
            self._warn(f"MLflow refused some entries of this run; {self.spool / 'refused.jsonl'} says which and why")
        if self._sender is not None and self._sender.poll() not in (None, 0):
            self._warn(f"what sends this run's record to MLflow has ended; {self.spool / 'sender.log'} says why")

    def _warn(self, message: str) -> None:
        kind = message.partition("(")[0]
        if kind not in self._told:  # once each, whatever the details
            self._told.add(kind)
            warnings.warn(message, TrackingWarning, stacklevel=4)


def _safe(name: str) -> str:
    """MLflow takes letters, digits, _ - . : / and spaces, in names like a path's."""
    cleaned = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)
    return "/".join(part.strip(".") or "_" for part in cleaned.split("/"))[:250]


def _model_description(start: RunStart) -> dict[str, Any]:
    model = start.recipe.model
    protocol = PROTOCOLS.get(start.recipe.data.protocol)
    return {
        "name": model.name,
        "num_classes": model.num_classes,
        "options": model.options,
        "window": protocol.window if protocol else None,
        "stride": protocol.stride if protocol else None,
    }
