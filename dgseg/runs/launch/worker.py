"""What runs in Ray's workers: the loop, with listeners that connect it to the driver."""

import logging
import socket
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch

from dgseg.data.names import without_secrets
from dgseg.runs.launch.command import Command
from dgseg.runs.launch.mailbox import send
from dgseg.training.listener import (
    CheckpointReport,
    Listener,
    ProfileReport,
    RunEnd,
    RunStart,
    ScoreReport,
    StepReport,
)
from dgseg.training.storage import open_storage
from dgseg.training.train import RunResult


@dataclass(frozen=True)
class Job:
    """What every worker gets."""

    command: Command
    listeners: Callable[[], Sequence[Listener]]
    mailbox: Any
    mark: str  # a file that the driver has put into the storage
    loop: Callable[..., RunResult]


def work(config: dict[str, Any]) -> RunResult:
    """In every worker, on a thread of its own."""
    job: Job = config["job"]
    run = job.command.run
    send(job.mailbox, "arrived", rank())
    logging.captureWarnings(True)
    for name in ("dgseg", "py.warnings"):
        logging.getLogger(name).addHandler(Notes(job.mailbox))
    if not open_storage(run.storage).exists(job.mark):
        raise ValueError(
            f"--storage {without_secrets(run.storage)} is not the same folder on every machine: {socket.gethostname()} "
            "does not see what the driver has written there. Name one that all share, on NFS or as s3://…"
        )
    torch.set_num_threads(job.command.launch.cpus_per_worker or 1)
    try:
        return job.loop(job.command.recipe, run, listeners=[*job.listeners(), Relay(job.mailbox)])
    except Exception:
        ray.get(send(job.mailbox, "traceback", (rank(), traceback.format_exc())))
        raise


def rank() -> int:
    return int(ray.train.get_context().get_world_rank())


class Notes(logging.Handler):
    """Warnings to the driver's terminal."""

    def __init__(self, mailbox: Any) -> None:
        super().__init__(logging.WARNING)
        self._mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        send(self._mailbox, "note", self.format(record).strip())


class Relay(Listener):
    """In the first worker: what it tells goes to the driver's screen, and the driver's word to stop comes back."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
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

    def on_profile(self, report: ProfileReport) -> None:
        self._tell("on_profile", report)

    def on_end(self, end: RunEnd) -> None:
        ray.get(send(self._mailbox, "on_end", end))  # after it, the driver asks no more: everything has arrived

    def _tell(self, method: str, argument: Any) -> None:
        send(self._mailbox, method, argument)
