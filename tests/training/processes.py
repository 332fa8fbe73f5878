"""Real second processes, forked: they share what the test has imported, and die by SIGKILL where the test says so."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("fork")


def _main(function: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # the parent's pool of threads does not survive a fork
    function(*args)


def start(function: Callable[..., None], *args: Any) -> BaseProcess:
    process = _CONTEXT.Process(target=_main, args=(function, args))
    process.start()
    return process


def finish(process: BaseProcess) -> None:
    process.join(60)
    assert process.exitcode == 0, f"exit code {process.exitcode}"


def kill(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()  # with a timeout it would wait for grandchildren too


def event() -> Any:
    return _CONTEXT.Event()


def queue() -> Any:
    return _CONTEXT.SimpleQueue()
