"""The process that sends a run's spool while it trains: a server that hangs, a database that migrates and MLflow's own
work take neither a step nor Python's lock from training.

    python -m dgseg.runs.tracking.follow FOLDER PID      until the run of the process that started it is closed
"""

import fcntl
import os
import sys
import time
from pathlib import Path

from dgseg.runs.tracking.place import use_short_timeouts
from dgseg.runs.tracking.sender import Sender
from dgseg.runs.tracking.spool import CLOSING, LOCK, Writer
from dgseg.runs.tracking.system import SystemSampler

_PAUSE = 1.0  # seconds between two looks at the spool
_LONGEST_PAUSE = 15.0  # while the server is away
_ORPHAN = 20.0  # seconds that remain when training vanished


def replay(folder: Path, uri: str | None = None) -> Sender:
    """Everything that waits in a spool, now. Raises where the server does not answer; then all of it is kept."""
    use_short_timeouts()
    sender = Sender(folder, uri)
    with (folder / LOCK).open("w") as lock:
        _lock(lock.fileno(), folder)
        sender.send()
        if sender.closed:
            sender.finish()
        else:
            sender.abandon()
    return sender


def follow(folder: Path, parent: int) -> int:
    """Until the run is closed and all of it has arrived (0), or training is gone and the server does not answer (1)."""
    os.nice(10)
    with (folder / LOCK).open("w") as lock:
        while not _try_lock(lock.fileno()):  # the sender of an earlier process of this run is just ending
            time.sleep(_PAUSE)
        return _follow(folder, parent)


def _follow(folder: Path, parent: int) -> int:
    sender: Sender | None = None
    sampler: SystemSampler | None = None
    pause, gone_since = _PAUSE, None
    while True:
        if gone_since is None and os.getppid() != parent:
            gone_since = time.monotonic()
        try:
            sender = sender or Sender(folder, os.environ["MLFLOW_TRACKING_URI"])
            if sampler is None and gone_since is None and sender.identity["system_interval"]:
                sampler = SystemSampler(
                    Writer(folder, "system"), sender.identity["started"], sender.identity["system_interval"]
                )
            if sampler and not sender.closed:
                sampler.sample_if_due()
            began = time.monotonic()
            sender.send()
            sender.note(None)
            if sender.closed:
                sender.finish()
                return 0
            if gone_since is not None:  # what was sent stays: the next start may be writing already
                sender.abandon()
                return 0
            # Never more than a hundredth of a core: a local database is written by this very process.
            pause = min(max(_PAUSE, 100 * (time.monotonic() - began)), _LONGEST_PAUSE)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            print(reason, file=sys.stderr, flush=True)
            if sender is not None:
                sender.note(reason)
            if gone_since is not None and time.monotonic() - gone_since > _ORPHAN:
                return 1
            pause = min(2 * pause, _LONGEST_PAUSE)
        _wait(pause, parent, folder, sampler if gone_since is None else None)


def _wait(seconds: float, parent: int, folder: Path, sampler: SystemSampler | None) -> None:
    """Shorter when training has ended or vanished: somebody waits for this process then."""
    until = time.monotonic() + seconds
    while True:
        time.sleep(0.2)
        if time.monotonic() > until or os.getppid() != parent or (folder / CLOSING).exists():
            return
        if sampler:
            sampler.sample_if_due()


def _lock(descriptor: int, folder: Path) -> None:
    if not _try_lock(descriptor):
        raise ValueError(f"{folder} is being sent by a run that is alive: wait until it ends")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: a second start on one name is refused by training itself
        return True
    return True


if __name__ == "__main__":
    raise SystemExit(follow(Path(sys.argv[1]), int(sys.argv[2])))
