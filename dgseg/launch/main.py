"""From a command line to a run: what `dgseg train` and ray_jobs/train_flexseg.py are."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from dgseg.launch.cluster import cluster
from dgseg.launch.command import Command, parse
from dgseg.launch.failures import PLAIN, WorkerFailed
from dgseg.launch.local import run_here
from dgseg.training.journal import Journal
from dgseg.training.listener import Listener
from dgseg.training.progress import Progress
from dgseg.training.train import RunResult


def here(argv: Sequence[str], prog: str = "dgseg train") -> int:
    """On this machine, without Ray."""
    with plainly(prog):
        command = checked(parse(argv, prog=prog))
        return status(command, run_here(command, listeners=shown_and_kept))


def on_ray(argv: Sequence[str], prog: str) -> int:
    """On the cluster that --address or RAY_ADDRESS names, or on one that is started for it."""
    with plainly(prog):
        command = checked(parse(argv, prog=prog))
        with cluster(command.launch) as launch:
            from dgseg.launch.ray import run_on_ray

            command = replace(command, launch=launch)
            return status(command, run_on_ray(command, listeners=kept, screen=[Progress()]))


def kept() -> list[Listener]:
    return [Journal()]


def shown_and_kept() -> list[Listener]:
    return [Progress(), *kept()]


@contextmanager
def plainly(prog: str) -> Iterator[None]:
    """What a user can mend is told in one message; what they stopped themselves needs none."""
    try:
        yield
    except (*PLAIN, WorkerFailed) as error:
        raise SystemExit(f"{prog}: {error}") from error
    except KeyboardInterrupt:
        print(f"{prog}: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


def checked(command: Command) -> Command:
    """At once, where the workers would only tell after they have started."""
    recipe, launch = command.recipe, command.launch
    for workers in range(launch.min_workers or launch.workers, launch.workers + 1):
        share = workers * recipe.train.accumulate
        if recipe.data.batch_size % share:
            raise ValueError(
                f"data.batch_size is {recipe.data.batch_size}, which {workers} workers × {recipe.train.accumulate} "
                f"micro-batches cannot share evenly, and with --workers {launch.workers}"
                + (f" --min-workers {launch.min_workers}" if launch.min_workers else "")
                + f" there may be {workers}"
            )
    return command


def status(command: Command, result: RunResult) -> int:
    """0 when the run did what it was asked to; 130 when it was stopped before."""
    if result.weights is not None:
        print(f"weights: {result.weights}")
    asked = command.run.stop_after is not None and result.step >= command.run.stop_after
    return 0 if result.status == "finished" or asked else 130
