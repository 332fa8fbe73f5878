"""Processes that work on a study at once.

Ctrl-C and SIGTERM come to the study, which asks them to stop through a flag that they share: a run saves after the step
that it is in. A study that is killed asks nothing: its processes notice, do the same and end.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import torch

from dgseg.training.interrupt import Interrupt

P = ParamSpec("P")
R = TypeVar("R")
LOOK = 0.2  # seconds between two looks at the flag

_stop: Any = None  # of the process that this is: the flag
_at_work = threading.Lock()  # held while it does what it was given


@contextmanager
def processes(workers: int, stopped: Callable[[], None]) -> Iterator[ProcessPoolExecutor]:
    """Each with its share of the cores, and with a GPU of its own where there are many. What they get is to be wrapped
    in `asked`; stopped: told once of Ctrl-C and SIGTERM."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    stop = context.RawValue("b", 0)  # a lock would stay with a process that is killed while it has it

    def heard() -> None:
        stop.value = 1
        stopped()

    with (
        Interrupt(heard).listening(),
        ProcessPoolExecutor(workers, context, _settle, (context.Value("i", 0), threads, stop)) as pool,
    ):
        yield pool


def asked(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """In one of the processes. KeyboardInterrupt where it is to stop and does not listen itself."""
    with _at_work:
        if _stop.value:
            raise KeyboardInterrupt
        try:
            return function(*arguments, **named)
        finally:
            if not _study().is_alive():  # nobody to answer
                os._exit(1)


def _settle(turn: Any, threads: int, stop: Any) -> None:
    global _stop
    _stop = stop
    os.setpgid(0, 0)  # the terminal's Ctrl-C is for the study alone
    signal.signal(signal.SIGINT, _interrupted)
    with turn.get_lock():
        os.environ["LOCAL_RANK"] = str(turn.value)
        turn.value += 1
    torch.set_num_threads(threads)
    threading.Thread(target=_watch, daemon=True, name="study").start()


def _interrupted(number: int, frame: FrameType | None) -> None:
    if _at_work.locked():  # an idle one that dies would take the others with it
        raise KeyboardInterrupt


def _study() -> Any:
    study = multiprocessing.parent_process()
    assert study is not None
    return study


def _watch() -> None:
    study = _study()
    while study.is_alive() and not _stop.value:
        study.join(LOOK)
    _stop.value = 1
    os.kill(os.getpid(), signal.SIGINT)
    study.join()
    with _at_work:
        os._exit(1)
