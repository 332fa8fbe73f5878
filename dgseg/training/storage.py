"""The folder of all runs: on this machine, on NFS, or behind a URI that pyarrow opens.

Names are relative to the folder, with slashes. What is absent raises FileNotFoundError, everywhere.
"""

import os
import shutil
import uuid
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from dgseg.training.lock import Busy, FileLock

LOCK = "lock"


class Lock(Protocol):
    def check(self) -> None:
        """Raises Busy when another run has taken it over meanwhile."""

    def release(self) -> None: ...


class Storage(ABC):
    """A folder, which need not exist before something is written into it."""

    url: str
    local: Path | None = None  # the folder itself, where programs can open files in it

    @abstractmethod
    def folder(self, name: str) -> "Storage": ...

    def where(self, name: str = "") -> str:
        """For messages."""
        return f"{self.url.rstrip('/')}/{name}" if name else self.url

    @abstractmethod
    def exists(self, name: str = "") -> bool: ...

    @abstractmethod
    def names(self) -> list[str]:
        """Of the files and folders right here, sorted; none when this folder is absent."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a file."""

    @abstractmethod
    def read(self, name: str) -> bytes: ...

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """The whole file or, if this process dies, the one before."""

    @abstractmethod
    def upload(self, source: Path, name: str, *, last: str | None = None) -> None:
        """A file or folder of this machine. Where a folder cannot appear at once, its file `last` comes last."""

    @abstractmethod
    def download(self, name: str, target: Path) -> None:
        """A file or folder, to `target` on this machine."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """A file or a folder with all that it holds; nothing when it is absent."""

    @abstractmethod
    def lock(self, wait: float = 0.0) -> AbstractContextManager[Lock]:
        """This folder for this process alone, until released or until this process dies. Raises Busy when another one
        holds it for `wait` seconds more."""

    def check_writable(self) -> None:
        """Raises ValueError, with the fix, when nothing can be written here."""
        probe = f".writable-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"dgseg")
            self.delete(probe)
        except OSError as error:
            raise ValueError(
                f"the storage {self.url} cannot be written ({error.strerror or error}); name a folder or URI that this "
                "user can write to with --storage, or mend its permissions, space or credentials"
            ) from error


def open_storage(url: str | Path) -> Storage:
    """A path, file://, or any URI that pyarrow knows: s3://, gs://, hdfs://, abfs:// …"""
    scheme, separator, rest = str(url).partition("://")
    if separator and scheme != "file":
        from dgseg.training.remote_storage import open_uri

        return open_uri(str(url))
    return LocalStorage(Path(unquote(rest) if separator else url))


def run_folder(url: str, storage: str, name: str) -> Storage:
    """A run's folder, by what messages call it. That of a URI lacks what follows its question mark, an endpoint or a
    region, which only the user's own address of the storage has."""
    return open_storage(storage).folder(name) if "://" in url else open_storage(url)


def held(storage: Storage, busy: Busy) -> Busy:
    return Busy(f"another run works on {storage.url}: {busy}. Wait for it, stop it, or choose another name with --name")


class LocalStorage(Storage):
    def __init__(self, path: Path) -> None:
        self.local: Path = path.expanduser().absolute()
        self.url = str(self.local)

    def folder(self, name: str) -> "LocalStorage":
        return LocalStorage(self.local / name)

    def exists(self, name: str = "") -> bool:
        return (self.local / name).exists()

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.local))
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int:
        return (self.local / name).stat().st_size

    def read(self, name: str) -> bytes:
        return (self.local / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        aside = self._aside(name)
        try:
            aside.write_bytes(data)
            self._publish(aside, self.local / name)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def upload(self, source: Path, name: str, *, last: str | None = None) -> None:
        aside = self._aside(name)
        try:
            if source.is_dir():
                shutil.copytree(source, aside)
                self.delete(name)
            else:
                shutil.copyfile(source, aside)
            self._publish(aside, self.local / name)
        except BaseException:
            remove(aside)
            raise

    def download(self, name: str, target: Path) -> None:
        source = self.local / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def delete(self, name: str) -> None:
        remove(self.local / name)

    def lock(self, wait: float = 0.0) -> AbstractContextManager[Lock]:
        lock = FileLock(self.local / LOCK)
        try:
            lock.acquire(wait)
        except Busy as busy:
            raise held(self, busy) from busy
        return lock

    def _aside(self, name: str) -> Path:
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex}")

    @staticmethod
    def _publish(aside: Path, target: Path) -> None:
        sync(aside)
        os.replace(aside, target)
        sync(target.parent, deep=False)


def sync(path: Path, *, deep: bool = True) -> None:
    """To the disk: a file, or a folder with all that it holds (deep) or just its list of names."""
    if deep and path.is_dir():
        for inside in path.iterdir():
            sync(inside)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return
