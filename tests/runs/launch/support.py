"""Small runs, and listeners that disturb them in the workers."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dgseg.runs.launch.command import Command
from dgseg.runs.launch.config import LaunchConfig
from dgseg.training import Listener, RunConfig, RunResult
from dgseg.training.journal import Journal
from tests.training.harness import tiny

LEAN = {"data.validation": [], "data.test": [], "schedule.steps": 12, "train.save_every": 3}


def command(storage: Path, changes: dict[str, Any] | None = None, *, name: str = "run", **launch: Any) -> Command:
    run = RunConfig(storage=str(storage), name=name, device="cpu", log_every=1, timeout=60)
    return Command(tiny(LEAN | (changes or {})), run, LaunchConfig(**{"cpus_per_worker": 1, **launch}))


def weights(result: RunResult) -> dict[str, torch.Tensor]:
    assert result.weights is not None
    return load_file(result.weights)


@dataclass
class Disturbance(Listener):
    """Asked after every step, in every worker, as it may stop the run."""

    every_rank = True

    folder: Path  # shared: what happens once happens once in a run, whatever restarts
    pause: float = 0.0  # seconds after every step
    kill: dict[int, int] | None = None  # rank -> step at which it dies
    fail: tuple[int, Exception] | None = None  # a rank, and what it raises at the first step

    def __post_init__(self) -> None:
        self.step = 0
        self.rank = int(os.environ.get("RANK", "0"))
        (self.folder / f"worker-{self.rank}-{os.getpid()}").touch()

    def should_stop(self) -> bool:
        self.step += 1
        time.sleep(self.pause)
        if self.fail is not None and self.fail[0] == self.rank:
            raise self.fail[1]
        mark = self.folder / f"killed-{self.rank}"
        if self.kill is not None and self.kill.get(self.rank) == self.step and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return False


@dataclass(frozen=True)
class Disturbed:
    """Makes the listener in the worker."""

    folder: Path
    options: dict[str, Any]

    def __call__(self) -> Sequence[Listener]:
        return [Disturbance(self.folder, **self.options)]


def disturbed(folder: Path, **options: Any) -> Disturbed:
    folder.mkdir(parents=True, exist_ok=True)
    return Disturbed(folder, options)


def journalled() -> Sequence[Listener]:
    return [Journal()]


@dataclass(frozen=True)
class KeptAnd:
    """With the journal, as a run on the command line has it."""

    others: Disturbed

    def __call__(self) -> Sequence[Listener]:
        return [Journal(), *self.others()]


def attempts(folder: Path, rank: int = 0) -> int:
    """How many processes have been this worker."""
    return len(list(folder.glob(f"worker-{rank}-*")))
