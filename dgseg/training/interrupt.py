"""Ctrl-C and SIGTERM ask the run to stop after the step that it is in; a second one ends it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        """on_first: called in the handler of the first signal; it must not print."""
        self.requested: str | None = None  # the signal's name
        self._on_first = on_first

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
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.requested = signal.Signals(number).name
        self._on_first()
