"""A recipe on this machine without Ray: in this process, in several that start here, or in one of torchrun's."""

import os
import sys
from collections.abc import Callable, Sequence

import torch

from dgseg.runs.launch.command import Command
from dgseg.training.failures import USER_ERRORS, WorkerFailed, is_retryable, retry_note
from dgseg.training.listener import Listener
from dgseg.training.ranks import run_ranks
from dgseg.training.train import RunResult, train


def run_here(command: Command, *, listeners: Callable[[], Sequence[Listener]] = tuple) -> RunResult:
    """`listeners` makes them, in the workers."""
    launch = command.launch
    if launch.min_workers is not None or launch.address is not None:
        raise ValueError("--min-workers and --address are for Ray: add --on ray")
    if launch.gpus_per_worker:
        raise ValueError(
            "--gpus-per-worker is for Ray, which sets GPUs aside: add --on ray. Here each worker takes one of this "
            "machine's, and --device cuda makes that a condition"
        )
    started = int(os.environ.get("WORLD_SIZE", "0"))
    if started and launch.workers not in (1, started):
        raise ValueError(f"--workers {launch.workers}, but torchrun has started {started}: leave the number to it")
    if launch.workers > 1 and not started:
        return _several(command, listeners)
    if launch.cpus_per_worker is not None:
        torch.set_num_threads(launch.cpus_per_worker)
    return train(command.recipe, command.run, listeners=listeners())


def _several(command: Command, listeners: Callable[[], Sequence[Listener]]) -> RunResult:
    launch, run = command.launch, command.run
    for attempt in range(1, launch.failures + 2):
        try:
            return run_ranks(
                _work,
                command,
                listeners,
                ranks=launch.workers,
                threads=launch.cpus_per_worker,
                device=run.device,
                timeout=run.timeout,
            )
        except WorkerFailed as failed:
            error = failed.error if isinstance(failed.error, USER_ERRORS) else failed
            fatal = failed.error is not None and not is_retryable(failed.error)
            if fatal or attempt > launch.failures:
                raise error from None
            print(f"{error}: {retry_note(attempt, launch.failures)}", file=sys.stderr, flush=True)
    raise AssertionError("the last attempt returns or raises")


def _work(command: Command, listeners: Callable[[], Sequence[Listener]]) -> RunResult:
    return train(command.recipe, command.run, listeners=listeners())
