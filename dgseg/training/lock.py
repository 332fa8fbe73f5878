"""One holder at a time, by a file that the kernel unlocks when its holder dies, however it dies."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

POLL = 0.1  # seconds


class Busy(ValueError):
    """Another process holds it."""


def holder() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %Z")}


def describe(found: bytes) -> str:
    try:
        who = json.loads(found)
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):  # its holder has locked it, and not yet written who it is
        return "another process"


class FileLock:
    """Works between threads, processes, and machines that share the folder by NFS, whose server then keeps the lock.

    A forked child does not inherit it: a loader's process that outlives its trainer by seconds must not hold the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, wait: float = 0.0) -> None:
        """Raises Busy when it stays held for `wait` seconds."""
        assert self._fd is None
        deadline = time.monotonic() + wait
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while (fd := self._try()) is None:
            if time.monotonic() >= deadline:
                raise Busy(f"{self.path} is held by {self._holder()}")
            time.sleep(POLL)
        self._fd = fd
        _held.add(self)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(holder()).encode(), 0)
        except OSError:  # a full disk
            self.release()
            raise

    def _try(self) -> int | None:
        """An open file that is locked; None while another process holds it."""
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have removed the file after we opened it: a lock on that one excludes no process.
                if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                    locked, fd = fd, -1
                    return locked
            except BlockingIOError:
                return None
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise ValueError(
                        f"{self.path}: this file system has no locks ({error.strerror}), so that nothing would keep "
                        "two runs apart; mount it with locks (NFS without nolock), or choose another storage"
                    ) from error
                raise
            finally:
                if fd >= 0:
                    os.close(fd)

    def _holder(self) -> str:
        try:
            return describe(self.path.read_bytes())
        except FileNotFoundError:  # released just now
            return describe(b"")

    def check(self) -> None:
        """No-op: a kernel lock cannot be taken over."""

    def release(self) -> None:
        if self._fd is None:
            return
        with contextlib.suppress(FileNotFoundError):  # the whole folder is gone
            self.path.unlink()
        self._forget()
        _held.discard(self)

    def _forget(self) -> None:
        assert self._fd is not None
        os.close(self._fd)
        self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


_held: set[FileLock] = set()


def _forget_all() -> None:
    """In a forked child: the parent's lock stays the parent's, and ends with it."""
    for lock in list(_held):
        lock._forget()
    _held.clear()


os.register_at_fork(after_in_child=_forget_all)
