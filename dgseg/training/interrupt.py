"""Ctrl-C and SIGTERM ask the run to stop after the step that it is in; a second one ends it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _die(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


class Interrupt:
    """first, again: called with the signal's number by the handler of the first signal and of every later one; they
    must not print."""

    def __init__(self, first: Callable[[int], None] = lambda number: None, again: Callable[[int], None] = _die) -> None:
        self.requested: str | None = None  # the first signal's name
        self._first, self._again = first, again

    @contextmanager
    def listening(self) -> Iterator["Interrupt"]:
        if threading.current_thread() is not threading.main_thread():
            # Python delivers signals to the main thread alone; a launcher that trains in another asks by a listener.
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            self._again(number)
            return
        self.requested = signal.Signals(number).name
        self._first(number)
