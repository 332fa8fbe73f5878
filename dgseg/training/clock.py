"""Where a run's time goes: every lap of the clock is booked on a part of the work.

On a CPU a lap is host time. A GPU runs behind the host, so there a lap is the time between two events in the GPU's
stream: while the GPU is idle because its host still loads images, `data` grows. The host never waits for an event; one
that the GPU has not reached yet is booked at the next report.
"""

import time
from collections import defaultdict, deque
from collections.abc import Mapping

import torch

STEP = ("data", "forward", "backward", "exchange", "optimizer")  # parts of a training step, in their order
PARTS = ("start", *STEP, "reports", "scoring", "saving")

NAMES = {
    "start": "starting",
    "data": "waiting for data",
    "forward": "forward and backward",
    "backward": "forward and backward",
    "exchange": "waiting for other workers",
}
MENTIONED = 0.015  # share of a run below which a part is not worth a word
# What to try where a part takes more than this share of a run.
ADVICE = {
    "waiting for data": (0.1, "more --data.loaders, or dgseg data pack"),
    "waiting for other workers": (0.1, "the slowest one sets the pace"),
    "scoring": (0.25, "a larger --train.evaluate-every, or fewer images of data.test"),
    "saving": (0.1, "a larger --train.save-every, or a faster --storage"),
}


class Clock:
    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._new: dict[str, float] = defaultdict(float)  # since the last report
        self._totals: dict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event]] = deque()
        self._last = time.perf_counter()
        self._last_event = self._record() if self._gpu else None

    def lap(self, part: str) -> None:
        """The time since the last lap went into this part."""
        if self._gpu:
            self._events.append((part, self._record()))
            return
        now = time.perf_counter()
        self._new[part] += now - self._last
        self._last = now

    def report(self) -> dict[str, float]:
        """Seconds by part of a step, and of reports, since the last report."""
        self._read()
        timings = {part: self._new.get(part, 0.0) for part in (*STEP, "reports")}
        self._book()
        return timings

    def totals(self) -> dict[str, float]:
        """Seconds by part since the start. On a GPU this waits for the last lap."""
        if self._events:
            self._events[-1][1].synchronize()
        self._read()
        self._book()
        return {part: self._totals[part] for part in PARTS if part in self._totals}

    def _book(self) -> None:
        for part, seconds in self._new.items():
            self._totals[part] += seconds
        self._new.clear()

    def _read(self) -> None:
        while self._events and self._events[0][1].query():
            part, event = self._events.popleft()
            assert self._last_event is not None
            self._new[part] += self._last_event.elapsed_time(event) / 1e3
            self._last_event = event

    @staticmethod
    def _record() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def summary(totals: Mapping[str, float]) -> str:
    """As in "62 % forward and backward, 21 % waiting for data: more --data.loaders": the largest shares first."""
    whole = sum(totals.values())
    shares = {name: seconds / whole for name, seconds in _merged(totals).items() if seconds > MENTIONED * whole}
    phrases = []
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        most, advice = ADVICE.get(name, (1.0, ""))
        phrases.append(f"{100 * share:.0f} % {name}" + (f": {advice}" if share > most else ""))
    return ("; " if any(":" in phrase for phrase in phrases) else ", ").join(phrases)


def _merged(totals: Mapping[str, float]) -> dict[str, float]:
    merged: dict[str, float] = defaultdict(float)
    for part, seconds in totals.items():
        merged[NAMES.get(part, part)] += seconds
    return merged
