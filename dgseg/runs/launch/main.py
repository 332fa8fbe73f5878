"""From a command line to a run: what `dgseg train` is, on this machine and on Ray."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from dgseg.runs.launch.cluster import cluster
from dgseg.runs.launch.command import Command, parse
from dgseg.runs.launch.local import run_here
from dgseg.runs.launch.records import maker, tracking
from dgseg.runs.launch.summary import show
from dgseg.training.progress import Progress
from dgseg.training.storage import run_folder
from dgseg.training.train import RunResult

if TYPE_CHECKING:
    from dgseg.runs.tracking.listener import MlflowConfig


def train_command(argv: Sequence[str], prog: str = "dgseg train") -> int:
    command = checked(parse(argv, prog=prog))
    return _train_on_ray(command) if command.launch.on == "ray" else _train_local(command)


def _train_local(command: Command) -> int:
    config = tracking(command.launch)
    return status(command, run_here(command, listeners=maker(config, shown=True)), config)


def _train_on_ray(command: Command) -> int:
    with cluster(command.launch) as launch:
        from dgseg.runs.launch.ray import run_on_ray

        command = replace(command, launch=launch)
        config = tracking(launch)
        result = run_on_ray(command, listeners=maker(config, shown=False), screen=[Progress()])
        return status(command, result, config)


def checked(command: Command) -> Command:
    """At once, where the workers would only tell after they have started."""
    recipe, launch, sizes = command.recipe, command.launch, command.sizes()
    for name, workers in (("workers", launch.workers), ("min-workers", launch.min_workers)):
        if workers is not None and workers not in sizes:
            raise ValueError(
                f"--{name} {workers}: {recipe.data.batch_size} images a step (data.batch_size), in "
                f"{recipe.train.accumulate} micro-batches (train.accumulate), cannot be shared evenly by {workers} "
                f"workers"
            )
    return command


def status(command: Command, result: RunResult, config: "MlflowConfig | None") -> int:
    """0 when the run did what it was asked to; 130 when it was stopped before."""
    if int(os.environ.get("RANK", "0")) == 0:  # torchrun calls this in every process
        console = Console(highlight=False)
        show(result, command.recipe)
        if config is not None:
            folder = run_folder(result.folder, command.run.storage, command.run.name or command.recipe.name)
            console.print(f"record    {config.how_to_open(folder)}", soft_wrap=True)
    asked = command.run.stop_after is not None and result.step >= command.run.stop_after
    return 0 if result.status == "finished" or asked else 130
