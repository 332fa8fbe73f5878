"""Runs behind a URI, through pyarrow's file systems.

An object appears there whole or not at all, but folders cannot be renamed and there are no locks. So what consists of
several files is complete when its last file is there, and a run is held by a lease: a file that its holder rewrites
every few seconds. Who finds a lease watches it: if it changes, its holder lives. Two processes that begin within the
same seconds can still both believe that they hold it, when the storage is slower than SETTLE; the loser learns of it
from Lease.check.
"""

import contextlib
import json
import logging
import shutil
import threading
import time
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dgseg.data.names import without_secrets
from dgseg.training.lock import Busy, describe, holder
from dgseg.training.storage import LOCK, Lock, Storage, held

log = logging.getLogger("dgseg.training")

CHUNK = 8 << 20
BEAT = 10.0  # seconds between two signs of life
PATIENCE = 45.0  # without one, its holder is dead
SETTLE = 2.0  # after which both of two that began together see who was last


def open_uri(uri: str) -> "ArrowStorage":
    try:
        from pyarrow import fs
    except ImportError as error:
        raise ValueError(
            f"the storage {without_secrets(uri)} needs pyarrow: pip install pyarrow, or give a local path"
        ) from error
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are ValueErrors
        raise ValueError(
            f"the storage {without_secrets(uri)} cannot be opened ({error}); give a path, or a URI that pyarrow knows: "
            "s3://bucket/folder, gs://bucket/folder, hdfs://host/folder, abfs://…"
        ) from error
    return ArrowStorage(system, path, without_secrets(uri))


class ArrowStorage(Storage):
    def __init__(self, system: Any, path: str, url: str) -> None:
        self.system, self.path, self.url = system, path.rstrip("/"), url

    def folder(self, name: str) -> "ArrowStorage":
        return ArrowStorage(self.system, self._at(name), self.where(name))

    def exists(self, name: str = "") -> bool:
        return not self._is(self._info(name), "NotFound")

    def names(self) -> list[str]:
        from pyarrow import fs

        found = self.system.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def size(self, name: str) -> int:
        info = self._info(name)
        if not self._is(info, "File"):
            raise FileNotFoundError(self.where(name))
        return int(info.size)

    def read(self, name: str) -> bytes:
        with self.system.open_input_stream(self._at(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes) -> None:
        self._make_parent(name)
        with self.system.open_output_stream(self._at(name)) as stream:
            stream.write(data)

    def upload(self, source: Path, name: str, *, last: str | None = None) -> None:
        if not source.is_dir():
            self._put(source, name)
            return
        files = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
        for file in sorted(files, key=lambda file: file == last):
            self._put(source / file, f"{name}/{file}")

    def _put(self, source: Path, name: str) -> None:
        self._make_parent(name)
        with source.open("rb") as file, self.system.open_output_stream(self._at(name)) as stream:
            shutil.copyfileobj(file, stream, CHUNK)

    def download(self, name: str, target: Path) -> None:
        if self._is(self._info(name), "Directory"):
            below = self.folder(name)
            target.mkdir(parents=True, exist_ok=True)
            for inside in below.names():
                below.download(inside, target / inside)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.system.open_input_stream(self._at(name)) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, CHUNK)

    def delete(self, name: str) -> None:
        info = self._info(name)
        if self._is(info, "Directory"):
            self.system.delete_dir(self._at(name))
        elif not self._is(info, "NotFound"):
            self.system.delete_file(self._at(name))

    def lock(self, wait: float = 0.0) -> AbstractContextManager[Lock]:
        """Whatever `wait` says, a lease without an owner is watched for PATIENCE seconds before it is taken over."""
        lease = Lease(self)
        deadline = time.monotonic() + wait
        while True:
            try:
                lease.acquire()
            except Busy as busy:
                if time.monotonic() >= deadline:
                    raise held(self, busy) from busy
            else:
                return lease

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def _make_parent(self, name: str) -> None:
        self.system.create_dir(self._at(name).rpartition("/")[0], recursive=True)

    def _info(self, name: str) -> Any:
        return self.system.get_file_info(self._at(name))

    @staticmethod
    def _is(info: Any, kind: str) -> bool:
        return bool(info.type.name == kind)


class Lease:
    def __init__(
        self,
        storage: Storage,
        name: str = LOCK,
        *,
        beat: float = BEAT,
        patience: float = PATIENCE,
        settle: float = SETTLE,
    ) -> None:
        self.storage, self.name = storage, name
        self.beat, self.patience, self.settle = beat, patience, settle
        self.mine = holder() | {"lease": uuid.uuid4().hex, "beat": 0}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost: str | None = None

    def acquire(self) -> None:
        self._watch()
        self._write()
        time.sleep(self.settle)
        found = self._read()
        if not self._is_mine(found):
            raise Busy(f"{self.storage.where(self.name)} is held by {describe(found or b'')}")
        self._thread = threading.Thread(target=self._live, name="dgseg lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        if self._lost is not None:
            raise Busy(f"{self.storage.where(self.name)} was taken over by {self._lost}; this run must stop")

    def release(self) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        if self._lost is None:
            self.storage.delete(self.name)

    def _watch(self) -> None:
        """Returns when no process holds it: it is absent, or stays the same for longer than a living holder lets it."""
        first = self._read()
        deadline = time.monotonic() + self.patience
        while (now := self._read()) is not None:
            if now != first:
                raise Busy(f"{self.storage.where(self.name)} is held by {describe(now)}")
            if time.monotonic() >= deadline:
                log.warning("%s: its holder, %s, is dead; taken over", self.storage.where(self.name), describe(now))
                return
            time.sleep(min(self.beat / 4, self.patience / 4))

    def _live(self) -> None:
        while not self._stop.wait(self.beat):
            try:
                found = self._read()
                if not self._is_mine(found):
                    self._lost = describe(found or b"")
                    log.error("%s was taken over by %s", self.storage.where(self.name), self._lost)
                    return
                self._write()
            except OSError as error:
                log.warning("%s: no sign of life could be left (%s)", self.storage.where(self.name), error)

    def _read(self) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return self.storage.read(self.name)
        return None

    def _write(self) -> None:
        self.mine["beat"] += 1
        self.storage.write(self.name, json.dumps(self.mine).encode())

    def _is_mine(self, found: bytes | None) -> bool:
        with contextlib.suppress(ValueError):
            return found is not None and json.loads(found).get("lease") == self.mine["lease"]
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
