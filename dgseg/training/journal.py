"""Every report of a run as a line of JSON, metrics.jsonl in its folder: the one record, from which others are made.

A line is appended the moment it is reported, so a run that is killed at any time leaves whole lines behind, and whoever
follows the file (dgseg/runs/tracking) knows it by its offset. Nothing is ever taken back: a resumed run appends a line
of kind "start", and trains the steps after its checkpoint again. `entries` reads what counts.

kinds: start, step, scores, checkpoint, profile, end; each holds its report of listener.py, and when it came, in ms.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from dgseg.data.names import without_secrets
from dgseg.machine import machine
from dgseg.training.listener import CheckpointReport, Listener, ProfileReport, RunEnd, RunStart, ScoreReport, StepReport
from dgseg.training.storage import LocalStorage, Storage, run_folder
from dgseg.training.yaml import dotted, to_yaml

log = logging.getLogger("dgseg.training")

FILE = "metrics.jsonl"
SHIPPED = "mlflow"  # a folder beside it: of whoever follows the file, and wants the run's other files there too
Entry = dict[str, Any]


def record_folder(folder: Storage) -> Path:
    """Where this process writes the journal: the run's folder; for one behind a URI a folder of this process's own,
    whose journal is uploaded with every checkpoint."""
    if folder.local is not None:
        return folder.local
    digest = hashlib.sha256(folder.url.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"dgseg-{os.getuid()}" / f"{digest}-{os.getpid()}"


def entries(folder: Storage) -> list[Entry]:
    """What counts of a run's journal: what was trained again, or by another recipe before this one took the name, is
    left out."""
    found: list[Entry] = []
    for entry in _parsed(folder.read(FILE)) if folder.exists(FILE) else ():
        if entry["kind"] == "start":
            kept = (each for each in found if each["step"] <= entry["step"] and each["kind"] != "end")
            found = list(kept) if entry["step"] else []
        found.append(entry)
    return found


def _parsed(text: bytes) -> Iterable[Entry]:
    for line in text.splitlines(keepends=True):
        if line.endswith(b"\n"):  # else it is still being written, or was when its writer was killed
            yield json.loads(line)


class Journal(Listener):
    def __init__(self) -> None:
        self.key: str | None = None  # of the run, however often it restarts and wherever its folder is moved
        self._folder: Storage | None = None
        self._path = Path()
        self._descriptor = -1
        self._unwritten = b""
        self._full = False

    def on_start(self, start: RunStart) -> None:
        self._folder = run_folder(start.folder, start.run.storage, start.name)
        record = record_folder(self._folder)
        self._path = record / FILE
        if self._folder.local is None:
            LocalStorage(record).write("recipe.yaml", to_yaml(start.recipe).encode())
        recipe = dotted(yaml.safe_load(to_yaml(start.recipe)))
        self.key = self._key_of(start, recipe)
        self._open()
        here = machine()
        self._append(
            "start",
            {
                **_fields(start),
                "key": self.key,
                "recipe": recipe,
                "run": dataclasses.asdict(start.run) | {"storage": without_secrets(start.run.storage)},
                "host": socket.gethostname(),
                **{name: here[name] for name in ("hardware", "versions", "commit", "uncommitted_changes")},
            },
        )
        self._upload()

    def on_step(self, report: StepReport) -> None:
        self._append("step", _fields(report))

    def on_scores(self, report: ScoreReport) -> None:
        kept = {
            "scores": report.named,
            "domains": list(report.scores),
            "averages": list(report.averages),
            "pictures": {name: f"{name}{path.suffix}" for name, path in report.pictures.items()},
        }
        for name, path in report.pictures.items():
            self._keep(path, f"{name}{path.suffix}")
        self._append("scores", _fields(report) | kept)

    def on_checkpoint(self, report: CheckpointReport) -> None:
        self._append("checkpoint", _fields(report))

    def on_profile(self, report: ProfileReport) -> None:
        self._append("profile", _fields(report))

    def on_end(self, end: RunEnd) -> None:
        if self._descriptor < 0:  # it failed before it began
            return
        behind_uri = self._folder is not None and self._folder.local is None
        shipped = (self._path.parent / SHIPPED).is_dir()
        if end.weights is not None and behind_uri and shipped:
            self._keep(end.weights, end.weights.name)
        self._append("end", _fields(end) | {"weights": end.weights and end.weights.name})
        self._upload()
        os.close(self._descriptor)
        self._descriptor = -1
        if behind_uri and not shipped:
            shutil.rmtree(self._path.parent, ignore_errors=True)

    def state_dict(self) -> dict[str, Any]:
        self._upload()
        return {"key": self.key}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.key = state.get("key")

    def _key_of(self, start: RunStart, recipe: dict[str, str]) -> str:
        """The folder knows best; a checkpoint that was moved to another folder still knows its run."""
        assert self._folder is not None
        starts = []
        with suppress(ValueError, LookupError, TypeError, RecursionError):  # damaged: it is told to who reads it
            starts = [entry for entry in entries(self._folder) if entry["kind"] == "start" and "key" in entry]
        if starts and (start.step or starts[-1]["recipe"] == recipe):  # else another recipe has taken the name
            return str(starts[-1]["key"])
        return self.key or uuid.uuid4().hex

    def _open(self) -> None:
        assert self._folder is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._folder.local is None or self._path.is_symlink():  # what a link names is not the run's
            self._path.unlink(missing_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        if self._folder.local is None and self._folder.exists(FILE):
            os.write(self._descriptor, self._folder.read(FILE))
        # A last line without its end was torn when its writer was killed: nobody has read it.
        os.ftruncate(self._descriptor, self._path.read_bytes().rfind(b"\n") + 1)

    def _append(self, kind: str, fields: dict[str, Any]) -> None:
        if self._descriptor < 0:
            return
        entry = {"kind": kind, "time": time.time_ns() // 1_000_000, **fields}
        self._unwritten += json.dumps(entry, ensure_ascii=False, default=str).encode() + b"\n"
        try:
            while self._unwritten:  # what a full disk did not take comes with a later line
                self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]
            self._full = False
        except OSError as error:
            self._warn(error)

    def _keep(self, path: Path, name: str) -> None:
        """Beside the journal, before it speaks of it."""
        assert self._folder is not None
        try:
            LocalStorage(self._path.parent).upload(path, name)
        except OSError as error:
            self._warn(error, name)

    def _upload(self) -> None:
        """To where the run lives, or to the disk. A full one is the checkpoint's to tell: a listener's error would
        stand before it."""
        if self._folder is None or self._descriptor < 0:
            return
        try:
            if self._folder.local is None:
                self._folder.write(FILE, self._path.read_bytes())
            else:
                os.fsync(self._descriptor)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError, name: str = FILE) -> None:
        assert self._folder is not None
        if not self._full:
            log.warning("%s could not be written (%s)", self._folder.where(name), error.strerror or error)
        self._full = True


def _fields(report: Any) -> dict[str, Any]:
    return {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
