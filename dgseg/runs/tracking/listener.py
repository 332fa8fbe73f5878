"""A run's record in MLflow: the run's journal, shipped by a process of its own (shipper.py).

Nothing here talks to MLflow. A server that is slow, down or gone costs training nothing; what it has not confirmed when
the run ends stays in the journal, for `dgseg tracking replay` or the next start of the same run.
"""

import functools
import getpass
import os
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import dgseg
from dgseg.data.names import without_secrets
from dgseg.evaluation.protocols import PROTOCOLS
from dgseg.runs.tracking import mlflow
from dgseg.runs.tracking.files import REFUSED, SETTINGS, STATE, open_to_append, read_json, write_json
from dgseg.runs.tracking.mlflow import TrackingWarning
from dgseg.training.journal import SHIPPED, record_folder
from dgseg.training.listener import CheckpointReport, Listener, RunEnd, RunStart, StepReport
from dgseg.training.storage import Storage, run_folder

Report = TypeVar("Report")

_LOOK_EVERY = 5.0  # seconds between two looks at how the shipper fares
_UPLOAD = 300.0  # seconds for what a server that answers still takes in when the run ends: weights


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
    source: Mapping[str, str] = field(default_factory=dict)
    """tags that say who began it and with which command; found out where the user stands"""
    system_interval: float = 10.0
    """seconds between two samples of processor, memory, disk, network and GPUs; 0: none"""
    wait: float = 20.0
    """seconds to wait for a server that does not answer when the run ends"""

    def resolved(self) -> "MlflowConfig":
        """The same from every folder and machine: call it where the user stands, not on a worker."""
        return replace(self, uri=mlflow.absolute(self.uri), source=self.source or _source())

    def build(self) -> "MlflowListener":
        return MlflowListener(self)

    def how_to_open(self, folder: Storage) -> str:
        """One line for the user on the run that this folder holds."""
        listener = self.build()
        listener.folder = record_folder(folder) / SHIPPED
        return listener.how_to_open()


def _source() -> dict[str, str]:
    """Who began it, with which command: a worker knows only the cluster's."""
    program, *words = sys.argv or ["python"]
    if program.endswith("__main__.py"):
        program = Path(program).parent.name
    command = shlex.join([Path(program).name, *map(without_secrets, words)])
    found = {
        # MLflow's pages show what stands behind the last slash.
        "mlflow.source.name": " ".join([Path(program).name, *words[:2]]).partition(" -")[0].partition("/")[0],
        "mlflow.source.type": "LOCAL",
        "command": command,
    }
    try:
        return found | {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # a container's user without a name
        return found


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
    """Comes after the run's Journal, whose file and folder are sent."""

    def __init__(self, config: MlflowConfig) -> None:
        self.config = config.resolved()
        self.uri = str(self.config.uri)
        self.folder: Path | None = None
        self._shipper: subprocess.Popen[bytes] | None = None
        self._looked = 0.0
        self._warned: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the server has answered once."""
        return self._state().get("run_id")

    def how_to_open(self) -> str:
        """One line for the user: an address, or the command that serves one and the address there."""
        shown, state = mlflow.without_password(self.uri), self._state()
        page = ""
        if "run_id" in state:  # without the workflow the page looks for chats instead of training runs
            page = f"#/experiments/{state['experiment_id']}/runs/{state['run_id']}?workflowType=machine_learning"
        if self.uri.startswith("http"):
            return f"{shown.rstrip('/')}/{page}"
        return f"mlflow ui --backend-store-uri {shown}, then http://127.0.0.1:5000/{page}"

    @_harmless
    def on_start(self, start: RunStart) -> None:
        record = record_folder(run_folder(start.folder, start.run.storage, start.name))
        folder, behind_uri = record / SHIPPED, "://" in start.folder
        if behind_uri:  # what lies there is of an earlier process of this number
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "uri": mlflow.without_password(self.uri),
            "experiment": self.config.experiment,
            "parent": {"mlflow.parentRunId": self.config.parent} if self.config.parent else {},
            "tags": {"dgseg": dgseg.__version__, **self.config.source, **self.config.tags},
            "system_interval": self.config.system_interval,
            "copies": behind_uri,
            "model": _model_description(start),
        }
        write_json(folder / SETTINGS, settings)
        state = read_json(folder / STATE)
        if "trouble" in state:  # or none: an earlier process's
            del state["trouble"]
            write_json(folder / STATE, state)
        self._shipper = self._start_shipper(record)
        self.folder = folder

    @_harmless
    def on_step(self, report: StepReport) -> None:
        self._look()

    @_harmless
    def on_checkpoint(self, report: CheckpointReport) -> None:
        self._look()

    @_harmless
    def on_end(self, end: RunEnd) -> None:
        if self.folder is None or self._shipper is None:
            return
        if not self._wait_for_shipper():
            self._warn(
                f"MLflow at {mlflow.without_password(self.uri)} has not confirmed everything. The rest lies in "
                f"{self.folder.parent}; `dgseg tracking replay {self.folder.parent}` sends it"
            )
        self._shipper = None

    def _start_shipper(self, record: Path) -> "subprocess.Popen[bytes]":
        root = str(Path(dgseg.__file__).resolve().parent.parent)
        environment = {
            **mlflow.HTTP,
            **os.environ,
            "MLFLOW_TRACKING_URI": self.uri,
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
        with open_to_append(record / "mlflow" / "shipper.log") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dgseg.runs.tracking.shipper", str(record), str(os.getpid())],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for training; the shipper brings home what training says about it
            )

    def _wait_for_shipper(self) -> bool:
        """Whether all has arrived. A server in trouble is waited for a little; one that answers may take weights in."""
        assert self._shipper is not None
        assert self._shipper.stdin is not None
        try:
            self._shipper.stdin.write(b"ended\n")
            self._shipper.stdin.close()
        except BrokenPipeError:  # it has seen the end in the journal, and has sent it
            pass
        began = time.monotonic()
        while self._shipper.poll() is None:
            answers = self._state().get("trouble", "not begun") is None
            if time.monotonic() - began > (_UPLOAD if answers else self.config.wait):
                self._shipper.terminate()
                self._shipper.wait()
                return False
            time.sleep(0.05)
        self._look(now=True)
        return self._shipper.returncode == 0

    def _look(self, now: bool = False) -> None:
        if self.folder is None or (not now and time.monotonic() - self._looked < _LOOK_EVERY):
            return
        self._looked = time.monotonic()
        state = self._state()
        if state.get("trouble"):
            self._warn(
                f"MLflow at {mlflow.without_password(self.uri)} does not take this run's record. Training goes on, "
                f"everything is kept in {self.folder.parent} and sent when it answers. ({state['trouble']})"
            )
        if state.get("refused"):
            self._warn(f"MLflow refused some entries of this run; {self.folder / REFUSED} says which and why")
        if self._shipper is not None and self._shipper.poll() not in (None, 0):
            self._warn(f"what sends this run's record to MLflow has ended; {self.folder / 'shipper.log'} says why")

    def _state(self) -> dict[str, Any]:
        return read_json(self.folder / STATE) if self.folder is not None else {}

    def _warn(self, message: str) -> None:
        kind = message.partition("(")[0]
        if kind not in self._warned:  # once each, whatever the details
            self._warned.add(kind)
            warnings.warn(message, TrackingWarning, stacklevel=4)


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
