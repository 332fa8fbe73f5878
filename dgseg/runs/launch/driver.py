"""The process that started a run on Ray: it shows what the workers send, and asks them to stop."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
from ray.train.torch import TorchTrainer

from dgseg.runs.launch.controller import reason
from dgseg.runs.launch.mailbox import decode, send
from dgseg.training.interrupt import Interrupt
from dgseg.training.listener import Listener, RunEnd
from dgseg.training.train import RunResult

PATIENCE = 30.0  # seconds without workers after which the driver says what it waits for


def stream_messages(
    trainer: TorchTrainer, mailbox: Any, screen: Sequence[Listener], describe_wait: Callable[[], str]
) -> RunResult:
    """Ray's part on a thread, so that signals reach this one: the first asks the workers to save and stop, as a
    listener on the screen may.

    describe_wait: says what is missing where no worker starts."""
    done: Future[Any] = Future()

    def fit() -> None:
        try:
            done.set_result(trainer.fit())
        except BaseException as error:
            done.set_exception(error)
        with suppress(Exception):  # the driver knows already, and has gone
            send(mailbox, "over", None)

    threading.Thread(target=fit, daemon=True, name="Ray Train").start()
    messages = _WorkerMessages(screen)
    patience = time.monotonic() + PATIENCE
    stopping = False
    with Interrupt(again=_raise_keyboard_interrupt).listening() as interrupt:
        while True:
            over = done.done()  # asked before the last messages are taken
            for message in ray.get(mailbox.take.remote(0.0 if over else 1.0)):
                messages.take(*decode(message))
            if over:
                break
            if not stopping and (interrupt.requested or any(listener.should_stop() for listener in screen)):
                if not messages.training:
                    raise KeyboardInterrupt
                stopping = True
                if interrupt.requested:
                    log("stopping: the workers save first; once more, and they do not")
                mailbox.stop.remote()
            if not messages.arrived and time.monotonic() > patience:
                log(describe_wait())
                patience = float("inf")
    error = done.exception()
    if error is not None:
        raise reason(error, messages.tracebacks)
    result: RunResult = done.result().return_value
    return result


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _raise_keyboard_interrupt(number: int) -> None:
    raise KeyboardInterrupt


class _WorkerMessages:
    """What the workers send, shown on the screen."""

    def __init__(self, screen: Sequence[Listener]) -> None:
        self.arrived = self.training = False
        self._lost = False  # after a failed attempt: drop late messages from its workers
        self._screen = screen
        self._step = 0
        self.tracebacks: dict[int, str] = {}  # of this attempt, by rank
        self._notes: set[str] = set()

    def take(self, kind: str, content: Any) -> None:
        if kind == "arrived":
            self.arrived = True
            self._lost = False
        elif kind == "note":
            if content not in self._notes:  # every worker warns of the same
                self._notes.add(content)
                log(content)
        elif kind == "lost":
            self._lost = True
            self.tracebacks = {}
            if self.training:  # take the bar off the screen
                self._show("on_end", RunEnd("failed", self._step))
            log(content)
        elif kind == "over" or self._lost:  # "over" only wakes the driver
            return
        elif kind == "traceback":
            rank, text = content
            self.tracebacks[rank] = text
        else:
            self._show(kind, content)

    def _show(self, method: str, argument: Any) -> None:
        self.training = method != "on_end"
        self._step = argument.step
        for listener in self._screen:
            getattr(listener, method)(argument)
