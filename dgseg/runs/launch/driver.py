"""The process that started a run on Ray: it shows what the workers tell, and passes on that they are to stop."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import ray
from ray.train.torch import TorchTrainer

from dgseg.runs.launch.controller import reason
from dgseg.runs.launch.mailbox import opened, tell
from dgseg.training.listener import Listener, RunEnd
from dgseg.training.train import RunResult

PATIENCE = 30.0  # seconds without workers after which the driver says what it waits for


def follow(trainer: TorchTrainer, mailbox: Any, screen: Sequence[Listener], awaited: Callable[[], str]) -> RunResult:
    """Ray's part on a thread, so that signals reach this one: the first asks the workers to save and stop.

    awaited: says what is missing where no worker starts."""
    done: Future[Any] = Future()

    def fit() -> None:
        try:
            done.set_result(trainer.fit())
        except BaseException as error:
            done.set_exception(error)
        with suppress(Exception):  # the driver has heard it, and has gone
            tell(mailbox, "over", None)

    threading.Thread(target=fit, daemon=True, name="Ray Train").start()
    heard = _Heard(screen)
    patience = time.monotonic() + PATIENCE
    with _signals() as stop:
        while True:
            over = done.done()  # asked before the last messages are taken
            for message in ray.get(mailbox.take.remote(0.0 if over else 1.0)):
                heard.take(*opened(message))
            if over:
                break
            if stop.is_set():
                if not heard.training:
                    raise KeyboardInterrupt
                heard.say("stopping: the workers save first; once more, and they do not")
                mailbox.stop.remote()
                stop.clear()
            if not heard.arrived and time.monotonic() > patience:
                heard.say(awaited())
                patience = float("inf")
    error = done.exception()
    if error is not None:
        raise reason(error, heard.tracebacks)
    result: RunResult = done.result().return_value
    return result


class _Heard:
    """What has come from the workers, and is shown."""

    def __init__(self, screen: Sequence[Listener]) -> None:
        self.arrived = self.training = False
        self._lost = False  # an attempt was, and what its last workers still say is not shown
        self._screen = screen
        self._step = 0
        self.tracebacks: dict[int, str] = {}  # of this attempt, by rank
        self._said: set[str] = set()

    def take(self, kind: str, content: Any) -> None:
        if kind == "arrived":
            self.arrived = True
            self._lost = False
        elif kind == "note":
            if content not in self._said:  # every worker warns of the same
                self._said.add(content)
                self.say(content)
        elif kind == "lost":
            self._lost = True
            self.tracebacks = {}
            if self.training:  # nobody has ended what the screen shows
                self._show("on_end", RunEnd("failed", self._step))
            self.say(content)
        elif kind == "over" or self._lost:  # the first has woken the driver, and tells nothing
            return
        elif kind == "traceback":
            rank, text = content
            self.tracebacks[rank] = text
        else:
            self._show(kind, content)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def _show(self, method: str, argument: Any) -> None:
        self.training = method != "on_end"
        self._step = argument.step
        for listener in self._screen:
            getattr(listener, method)(argument)


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM; the second is a KeyboardInterrupt."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # in a trial of Tune, which stops it in its own way
        yield asked
        return
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
