"""Interleaved timing: A B C A B C ..., so that a machine that slows down slows everyone."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Run = Callable[[], Any]

# After a parallel region OpenMP's workers spin for some milliseconds, which would cost a contender that brings its
# own thread pool (OpenCV) a core: every visit starts after a pause, and with one call that is not timed.
PAUSE_S = 0.01
# A visit collects samples for about this long, so that calls of microseconds get more of them.
VISIT_S = 0.005
MOST_SAMPLES_PER_VISIT = 10


@dataclass(frozen=True)
class Times:
    """Seconds."""

    median: float
    least: float
    p90: float
    p95: float
    samples: int

    @classmethod
    def of(cls, samples: list[float]) -> "Times":
        ordered = sorted(samples)

        def percentile(share: float) -> float:
            return ordered[math.ceil(share * (len(ordered) - 1))]

        return cls(statistics.median(ordered), ordered[0], percentile(0.9), percentile(0.95), len(ordered))


class Clock(Protocol):
    def settle(self, run: Run) -> None: ...

    def sample(self, run: Run) -> float: ...


class CpuClock:
    def settle(self, run: Run) -> None:
        time.sleep(PAUSE_S)
        run()

    def sample(self, run: Run) -> float:
        start = time.perf_counter_ns()
        result = run()  # freed after the clock has stopped
        stop = time.perf_counter_ns()
        del result
        return (stop - start) * 1e-9


class CudaClock:
    """GPU time between two events. The L2 cache is flushed first, and the GPU is kept busy while Python queues the
    call, so that what is timed is the kernels and not the launches. The flush reads: lines that it had written would be
    written back at the expense of the call."""

    def __init__(self, device: torch.device) -> None:
        properties = torch.cuda.get_device_properties(device)
        self.flush = torch.zeros(properties.L2_cache_size, dtype=torch.int32, device=device)  # four times its size
        self.busy_cycles = 10_000_000  # about 5 ms: the most that Python needs to queue a call

    def settle(self, run: Run) -> None:
        run()

    def sample(self, run: Run) -> float:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        torch.cuda._sleep(self.busy_cycles)
        self.flush.amax()
        start.record()
        result = run()
        stop.record()
        torch.cuda.synchronize()
        del result
        return float(start.elapsed_time(stop)) * 1e-3


class LatencyClock:
    """From the call to its result: on a GPU with the launches, and with the wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def settle(self, run: Run) -> None:
        time.sleep(PAUSE_S)
        run()

    def sample(self, run: Run) -> float:
        self._wait()
        start = time.perf_counter_ns()
        result = run()
        self._wait()
        stop = time.perf_counter_ns()
        del result
        return (stop - start) * 1e-9

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def clock(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def interleave(
    runs: Mapping[str, Run], device: torch.device, rounds: int, timer: Clock | None = None
) -> dict[str, Times]:
    """Every run must have been warmed up (compiled, allocated) by its caller. timer: by default the device's."""
    timer = timer or clock(device)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    per_visit = dict.fromkeys(runs, 1)
    for _ in range(rounds):
        for name, run in runs.items():
            timer.settle(run)
            samples[name] += [timer.sample(run) for _ in range(per_visit[name])]
            wanted = int(VISIT_S / max(min(samples[name]), 1e-9))
            per_visit[name] = min(max(wanted, 1), MOST_SAMPLES_PER_VISIT)
    return {name: Times.of(found) for name, found in samples.items()}
