"""A recipe on Ray Train: the same loop in every worker, and this process, the driver, to show what they do.

What a run needs to go on lies in its own checkpoints, which every restarted worker finds by itself. Ray keeps none, and
so has nothing that could disagree with them: it is told numbers alone, for Tune.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import torch
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dgseg.launch.command import Command
from dgseg.launch.mailbox import Mailbox
from dgseg.training.listener import CheckpointReport, Listener, RunEnd, RunStart, ScoreReport, StepReport
from dgseg.training.storage import open_storage
from dgseg.training.train import RunResult, train

PATIENCE = 30.0  # seconds without workers after which the driver says what it waits for
# What a worker may raise because another one, a network or a disk has failed. Anything else it would raise again.
PASSING = (RuntimeError, OSError, ray.exceptions.RayError)
LASTING = (NotImplementedError, torch.OutOfMemoryError)  # RuntimeErrors both


@dataclass(frozen=True)
class _Job:
    """What every worker gets."""

    command: Command
    listeners: tuple[Listener, ...]
    mailbox: Any
    mark: str  # a file that the driver has put into the storage
    loop: Callable[..., RunResult]


def run_on_ray(
    command: Command,
    *,
    listeners: Sequence[Listener] = (),
    screen: Sequence[Listener] = (),
    callbacks: Sequence[UserCallback] = (),
    loop: Callable[..., RunResult] = train,
) -> RunResult:
    """On the cluster that this process has joined. `listeners` go to the workers; `screen` hears in this process what
    the first worker tells; `callbacks` are Ray Train's, as Tune's report. `loop` is what every worker runs."""
    command = replace(command, run=replace(command.run, storage=_absolute(command.run.storage)))
    storage = open_storage(command.run.storage)
    storage.check_writable()
    mark = f".launch-{uuid.uuid4().hex}"
    storage.write(mark, b"")
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        with tempfile.TemporaryDirectory(prefix="dgseg-ray-") as folder:
            job = _Job(command, tuple(listeners), mailbox, mark, loop)
            trainer = _trainer(job, folder, callbacks)
            return _follow(trainer, mailbox, screen, command)
    finally:
        storage.delete(mark)
        ray.kill(mailbox)


def _trainer(job: _Job, folder: str, callbacks: Sequence[UserCallback]) -> TorchTrainer:
    recipe, run, launch = job.command.recipe, job.command.run, job.command.launch
    # Ray Train reads these here: workers stay in the driver's folder, where relative paths mean the same.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    needs = resources(job.command)
    return TorchTrainer(
        _work,
        train_loop_config={"job": job},
        torch_config=TorchConfig(timeout_s=int(run.timeout)),
        scaling_config=ScalingConfig(
            num_workers=(launch.min_workers, launch.workers) if launch.min_workers else launch.workers,
            use_gpu="GPU" in needs,
            resources_per_worker=needs,
        ),
        run_config=RunConfig(
            name=run.name or recipe.name,
            storage_path=folder,  # of Ray's own, which stays empty
            failure_config=FailureConfig(max_failures=launch.failures),
            callbacks=[_Failures(job.mailbox, launch.failures), *callbacks],
            logging_config=LoggingConfig(log_level="CRITICAL"),  # the driver says it, once and shorter
        ),
    )


def resources(command: Command) -> dict[str, float]:
    """What Ray sets aside for a worker."""
    launch, device = command.launch, command.run.device
    gpus = launch.gpus_per_worker
    if gpus is None:
        offered = ray.cluster_resources().get("GPU", 0)
        gpus = 1 if device == "cuda" or (device == "auto" and offered >= launch.workers) else 0
    if gpus and device == "cpu":
        raise ValueError(f"--gpus-per-worker {gpus} and --device cpu contradict each other: drop one")
    return {"CPU": launch.cpus_per_worker or 1, **({"GPU": gpus} if gpus else {})}


def _absolute(storage: str) -> str:
    """A job's folder is a copy that Ray deletes, and no place for runs: relative paths count from the home there."""
    if "://" in storage or Path(storage).is_absolute():
        return storage
    shipped = ray.get_runtime_context().runtime_env.get("working_dir")
    return str((Path.home() if shipped else Path.cwd()) / Path(storage).expanduser())


def _work(config: dict[str, Any]) -> RunResult:
    """In every worker, on a thread of its own."""
    job: _Job = config["job"]
    run = job.command.run
    job.mailbox.put.remote(("arrived", rank()))
    logging.captureWarnings(True)
    for name in ("dgseg", "py.warnings"):
        logging.getLogger(name).addHandler(_Notes(job.mailbox))
    if not open_storage(run.storage).exists(job.mark):
        raise ValueError(
            f"--storage {run.storage} is not the same folder on every machine: {socket.gethostname()} does not see "
            f"what the driver has written there. Name one that all share, on NFS or as s3://…"
        )
    torch.set_num_threads(job.command.launch.cpus_per_worker or 1)
    return job.loop(job.command.recipe, run, listeners=[*job.listeners, Relay(job.mailbox), Report()])


def rank() -> int:
    return int(ray.train.get_context().get_world_rank())


class _Notes(logging.Handler):
    """Warnings to the driver's terminal."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__(logging.WARNING)
        self._mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        self._mailbox.put.remote(("note", self.format(record).strip()))


class Relay(Listener):
    """From the first worker to the driver's screen; and from the driver to all, that it is time to stop."""

    every_rank = True

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._first = rank() == 0
        self._stopped: Future[None] = mailbox.stopped.remote().future()

    def should_stop(self) -> bool:
        return self._stopped.done()

    def on_start(self, start: RunStart) -> None:
        self._tell("on_start", start)

    def on_step(self, report: StepReport) -> None:
        self._tell("on_step", report)

    def on_scores(self, report: ScoreReport) -> None:
        self._tell("on_scores", report)

    def on_checkpoint(self, report: CheckpointReport) -> None:
        self._tell("on_checkpoint", report)

    def on_end(self, end: RunEnd) -> None:
        self._tell("on_end", end)

    def _tell(self, method: str, argument: Any) -> None:
        if self._first:
            self._mailbox.put.remote((method, argument))


class Report(Listener):
    """Scores to Ray Train, from every rank as it wants them. Without a checkpoint: ours are not Ray's to delete, nor
    missed when the run's own rule has deleted them."""

    every_rank = True

    def on_scores(self, report: ScoreReport) -> None:
        metrics = {f"{domain}/{name}": value for domain, by in report.scores.items() for name, value in by.items()}
        ray.train.report({"step": report.step, "final": report.final, **metrics, **report.averages})


class _Failures(UserCallback):  # type: ignore[misc]
    """In Ray's controller: tells the driver who failed, and gives up where another attempt would fail alike."""

    def __init__(self, mailbox: Any, allowed: int) -> None:
        self._mailbox, self._allowed, self._count = mailbox, allowed, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            raised = getattr(error, "_base_exc", None)  # None: nothing was raised, the worker is gone
            if raised is not None and (not isinstance(raised, PASSING) or isinstance(raised, LASTING)):
                raise error
        self._count += 1
        if self._count <= self._allowed:
            who = ", ".join(f"worker {rank}" for rank in sorted(worker_exceptions))
            why = str(cause(next(iter(worker_exceptions.values())))).strip().partition("\n")[0]
            note = (
                f"lost {who} ({why}): starting again from the last checkpoint, {self._count} of {self._allowed} times"
            )
            self._mailbox.put.remote(("note", note))


def cause(error: BaseException) -> BaseException:
    """What went wrong, out of Ray's wrappings."""
    inner: Any = getattr(error, "_base_exc", None) or getattr(error, "health_check_failure", None)
    if isinstance(error, ray.train.ControllerError):
        inner = error.controller_failure
    elif isinstance(error, ray.train.WorkerGroupError):
        inner = next(iter(error.worker_failures.values()), None)
    return cause(inner) if isinstance(inner, BaseException) else error


def _follow(trainer: TorchTrainer, mailbox: Any, screen: Sequence[Listener], command: Command) -> RunResult:
    """Ray's part on a thread, so that signals reach this one: the first asks the workers to save and stop."""
    done: Future[Any] = Future()

    def fit() -> None:
        try:
            done.set_result(trainer.fit())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=fit, daemon=True, name="Ray Train").start()
    arrived, started, patience = False, False, time.monotonic() + PATIENCE
    said: set[str] = set()
    with _signals() as stop:
        while True:
            over = done.done()  # asked before the last messages are taken
            for method, argument in ray.get(mailbox.take.remote(0.0 if over else 0.3)):
                arrived, started = arrived or method == "arrived", started or method == "on_start"
                if method == "note" and argument not in said:  # all workers warn of the same
                    said.add(argument)
                    print(argument, flush=True)
                elif method.startswith("on_"):
                    for listener in screen:
                        getattr(listener, method)(argument)
            if over:
                break
            if stop.is_set():
                if not started:
                    raise KeyboardInterrupt
                print("stopping: the workers save first; once more, and they do not", flush=True)
                mailbox.stop.remote()
                stop.clear()
            if not arrived and time.monotonic() > patience:
                print(_waiting(command), flush=True)
                patience = float("inf")
    error = done.exception()
    if error is not None:
        raise _told(error)
    result: RunResult = done.result().return_value
    return result


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


def _waiting(command: Command) -> str:
    launch = command.launch
    needs = " and ".join(f"{count:g} {name}s" for name, count in resources(command).items())
    offered = ray.cluster_resources()
    has = " and ".join(f"{offered.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
    count = launch.workers if launch.min_workers is None else f"{launch.min_workers} to {launch.workers}"
    return (
        f"waiting for {count} workers of {needs} each; the cluster has {has} in all, some of them perhaps taken. "
        f"Ctrl-C gives up; --workers, --cpus-per-worker and --gpus-per-worker ask for less"
    )


def _told(error: BaseException) -> BaseException:
    """For whoever reads the terminal: one message for what they can mend, the worker's traceback for the rest."""
    inner = cause(error)
    if isinstance(inner, ValueError):
        return ValueError(str(inner))
    return RuntimeError(f"training failed: {error}")
