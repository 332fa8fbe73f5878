"""Laps are booked on the right part, on a GPU without waiting for it, and the summary says what to do about them."""

import time

import pytest
import torch

from dgseg.training.clock import Clock, summary

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_laps_of_a_cpu_are_host_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Clock(CPU)
    for part, seconds in (("start", 5.0), ("data", 1.0), ("forward", 2.0), ("data", 0.5)):
        now += seconds
        clock.lap(part)
    assert clock.report() == {
        "data": 1.5,
        "forward": 2.0,
        "backward": 0.0,
        "exchange": 0.0,
        "optimizer": 0.0,
        "reports": 0.0,
    }
    now += 3
    clock.lap("saving")
    assert clock.report()["data"] == 0, "since the last report"
    assert clock.totals() == {"start": 5.0, "data": 1.5, "forward": 2.0, "saving": 3.0}


class Stream:
    """A GPU that reaches an event when the test says so."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.reached = 0

    def event(self, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def record(self) -> None:
        self.number = len(self.stream.events)
        self.stream.events.append(self)

    def query(self) -> bool:
        return self.number < self.stream.reached

    def elapsed_time(self, later: "Event") -> float:
        assert self.query(), "torch raises here"
        assert later.query(), "torch raises here"
        return 1000.0 * (later.number - self.number)

    def synchronize(self) -> None:
        self.stream.reached = self.number + 1


def test_laps_of_a_gpu_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Event", stream.event)
    clock = Clock(GPU)
    for part in ("data", "forward", "backward", "optimizer"):
        clock.lap(part)
    stream.reached = 3  # the beginning, data and forward
    first = clock.report()
    assert (first["data"], first["forward"], first["backward"]) == (1.0, 1.0, 0.0)
    assert stream.reached == 3, "no report makes the host wait"
    stream.reached = 5
    assert clock.report()["backward"] == 1.0, "what was late is in the next report"
    clock.lap("saving")
    assert clock.totals() == {"data": 1.0, "forward": 1.0, "backward": 1.0, "optimizer": 1.0, "saving": 1.0}


def test_summary_says_what_to_do() -> None:
    slow = {"start": 10.0, "data": 25.0, "forward": 30.0, "backward": 30.0, "optimizer": 1.0, "saving": 4.0}
    assert summary(slow) == (
        "60 % forward and backward; 25 % waiting for data: more --data.loaders, or dgseg data pack; 10 % starting; "
        "4 % saving"
    )
    assert summary({"start": 10.0, "forward": 90.0}) == "90 % forward and backward, 10 % starting"
