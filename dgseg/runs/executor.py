"""Many jobs, some at a time, each known by its name: a study's runs, and what is asked of their models.

One at a time they work in this process, without Ray. More are tasks of Ray, each with its share of the cores or a GPU,
on the cluster of --address and RAY_ADDRESS or on a Ray of their own. A job that fails is reported, and the others
continue. Ctrl-C and SIGTERM let every job save first. What is killed saves nothing, and leaves no process behind.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dgseg.runs.launch.cluster import cluster
from dgseg.runs.launch.config import LaunchConfig
from dgseg.training.interrupt import Interrupt

KILLED = "its process was killed, as one is where memory runs out"


@dataclass(frozen=True)
class Job:
    name: str
    label: str  # on the screen
    work: Callable[[], str]  # returns what came of it; KeyboardInterrupt where it was stopped
    after: str | None = None  # name of an earlier job, which must succeed first


@dataclass
class Outcome:
    failed: dict[str, str] = field(default_factory=dict)  # name of a job -> reason
    stopped: bool = False  # by a signal; the same command resumes

    @property
    def complete(self) -> bool:
        return not self.failed and not self.stopped


def execute(
    jobs: Sequence[Job],
    at_once: int = 1,
    *,
    device: str = "auto",
    address: str | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Does the jobs, `at_once` side by side. address: of a Ray cluster."""
    if at_once < 1:
        raise ValueError(f"--jobs is {at_once}; it must be at least 1")
    report = _Report(len(jobs), say)
    if at_once == 1:
        _work_here(jobs, report)
    elif jobs:
        # Signals are heard from here on: one that comes while Ray starts would be lost.
        with Interrupt().listening() as interrupt, cluster(LaunchConfig(workers=at_once, address=address)):
            _work_on_ray(list(jobs), at_once, device, interrupt, report)
    return report.outcome


@dataclass
class _Report:
    """Prints what became of each job, and keeps it."""

    total: int
    say: Callable[[str], None]
    outcome: Outcome = field(default_factory=Outcome)
    ended: int = 0

    def __call__(self, job: Job, message: str, since: float | None = None) -> None:
        self.ended += 1
        seconds = "" if since is None else f", {time.monotonic() - since:.0f} s"
        self.say(f"{self.ended}/{self.total}  {job.label}: {message}{seconds}")

    def failed(self, job: Job, reason: str, since: float | None = None) -> None:
        self.outcome.failed[job.name] = reason
        self(job, reason, since)

    def stopped(self, job: Job) -> None:
        self.outcome.stopped = True
        self(job, "stopped")

    def lacks_first(self, job: Job) -> bool:
        """True, and reported, where the job that must come first failed."""
        if job.after not in self.outcome.failed:
            return False
        self.failed(job, f"{job.after}, which it begins with, failed")
        return True


def _work_here(jobs: Sequence[Job], report: _Report) -> None:
    for job in jobs:
        if report.lacks_first(job):
            continue
        began = time.monotonic()
        try:
            message = job.work()
        except KeyboardInterrupt:
            report.stopped(job)
            return
        except Exception as error:
            report.failed(job, _reason(error), began)
        else:
            report(job, message, began)


def _work_on_ray(waiting: list[Job], at_once: int, device: str, interrupt: Interrupt, report: _Report) -> None:
    import ray
    from ray.exceptions import OutOfMemoryError, RayTaskError, TaskCancelledError, WorkerCrashedError

    cpus, gpus = _share(at_once, device)
    task = ray.remote(_in_worker).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
    running: dict[Any, tuple[Job, float]] = {}
    stopping = False
    while True:
        if interrupt.requested and not stopping:
            report.say("stopping: the runs save first; once more, and they are not waited for")
            report.outcome.stopped = stopping = True
            waiting.clear()
            for reference in running:
                ray.cancel(reference)
        while len(running) < at_once and (job := _next(waiting, running.values())) is not None:
            waiting.remove(job)
            if not report.lacks_first(job):
                running[task.remote(job.work, cpus)] = job, time.monotonic()
        if not running:
            assert not waiting, "a job waits for one that is not on the list"
            return
        for reference in ray.wait(list(running), timeout=0.5)[0]:
            job, began = running.pop(reference)
            try:
                report(job, ray.get(reference), began)
            except TaskCancelledError:
                if stopping:
                    report.stopped(job)
                else:
                    report.failed(job, "stopped by a signal to its process", began)
            except (WorkerCrashedError, OutOfMemoryError):
                report.failed(job, KILLED, began)
            except RayTaskError as error:
                report.failed(job, _reason(error.cause), began)


def _next(waiting: Sequence[Job], running: Any) -> Job | None:
    unfinished = {job.name for job in waiting} | {job.name for job, _ in running}
    return next((job for job in waiting if job.after not in unfinished), None)


def _share(at_once: int, device: str) -> tuple[int, int]:
    """CPUs and GPUs of each job: as many cores as leave room for all of them, and a GPU where there are any."""
    import ray

    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    sizes = range(int(max(nodes)), 0, -1)
    cpus = next((size for size in sizes if sum(cores // size for cores in nodes) >= at_once), 1)
    offered = ray.cluster_resources().get("GPU", 0)
    if device == "cuda" and not offered:
        raise ValueError("--device cuda: Ray sees no GPU here; --device cpu does without")
    return cpus, int(device != "cpu" and offered >= 1)


def _in_worker(work: Callable[[], str], cpus: int) -> str:
    import torch

    torch.set_num_threads(min(cpus, torch.get_num_threads()))
    return work()


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
