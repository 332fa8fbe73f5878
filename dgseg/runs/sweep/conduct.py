"""A sweep from beginning to end: its folder, its cluster, its table, its run in MLflow, its summary."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dgseg.recipes import to_yaml
from dgseg.runs.launch import records
from dgseg.runs.launch.cluster import cluster
from dgseg.runs.launch.command import Command
from dgseg.runs.launch.ray import absolute_storage
from dgseg.runs.sweep import plots, summary
from dgseg.runs.sweep.main import PROG, Asked
from dgseg.runs.sweep.record import Record, TrialRecord, best
from dgseg.runs.sweep.show import Screen
from dgseg.runs.sweep.space import Parameter, applied
from dgseg.runs.sweep.sweep import Recorder, Sweep, SweepConfig, fitting, objective
from dgseg.training.recipe import Recipe
from dgseg.training.storage import Storage

if TYPE_CHECKING:
    from dgseg.runs.sweep.tracked import Parent

SUMMARY = ("summary.md", "parallel.png", "slices.png", "winner.yaml")


def conduct(asked: Asked) -> int:
    """0: every trial has ended and one has finished; 130: stopped before; 1: no trial has finished."""
    config = SweepConfig(**{each.name: getattr(asked.options, each.name) for each in fields(SweepConfig)})
    objective(asked.command.recipe, config.on)  # what is refused is refused before a cluster starts
    # Lists of Tune's that say what the table says, and complain of files that it was told not to write.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with joined(asked) as (command, at_once), _told_to_stop_as_by_hand():
        made = Sweep(command, config, asked.parameters)
        with made.alone() as settings:
            return _conduct(made, settings, at_once)


def _conduct(made: Sweep, settings: dict[str, Any], at_once: int) -> int:
    trials, parameters = made.config.trials, made.parameters
    console = Console(stderr=True)
    record = Record(made.folder)
    if len(record.trials) > trials:
        raise ValueError(f"--trials is {trials}, and {made.name} has begun {len(record.trials)}: they may only grow")
    if record.trials:
        console.print(f"going on with {made.name}: {made.ended(record)} of {trials} trials have ended")
    told = _Told(made, record, Screen(record, parameters, made.metric, made.steps, trials, console))
    tracking = None
    config = records.tracking(made.command.launch)
    if config is not None:
        from dgseg.runs.sweep.tracked import Parent

        told.parent = Parent(
            config, made.name, settings.get("mlflow"), lambda run_id: made.keep({**settings, "mlflow": run_id})
        )
        told.parent.start({name: value for name, value in settings.items() if name not in ("recipe", "mlflow")})
        tracking = replace(config, parent=told.parent.run_id, tags={"sweep": made.name})
    if made.ended(record) < trials:
        with told.screen:
            made.run(at_once, record, [told], tracking)
    complete = made.ended(record) >= trials
    text = write(made.folder, made.name, made.metric, made.command.recipe, record.trials, parameters)
    if told.parent is not None:
        local = made.folder.local
        for each in record.of("stopped"):  # also those of which a kill left nobody time to say so
            told.parent.stopped(each, local and local / each.name, made.steps)
        told.parent.end("FINISHED" if complete else "KILLED", text, made.folder.local, SUMMARY)
    print(text)
    print(f"written to {made.folder.where()}: {', '.join(SUMMARY)}")
    if not complete:
        print(f"{PROG}: stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0 if best(record.trials) else 1


class _Told(Recorder):
    """Events to the table and to MLflow."""

    def __init__(self, made: Sweep, record: Record, screen: Screen) -> None:
        super().__init__(record, made.metric, made.steps)
        self.made, self.screen = made, screen
        self.parent: Parent | None = None

    def get_state(self) -> None:
        return None  # nothing that Tune should keep

    def changed(self, trial: TrialRecord) -> None:
        self.screen.changed(trial)
        if self.parent is not None and trial.status != "running":
            local = self.made.folder.local
            self.parent.ended(trial, self.record.trials, local and local / trial.name, self.steps)


@contextmanager
def _told_to_stop_as_by_hand() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does, for which Tune has its own ways. Ray's own handler ends without a word."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def joined(asked: Asked) -> Iterator[tuple[Command, int]]:
    """A cluster with room for the trials that run at once: the trials' command there, and how many they are."""
    launch, at_once = asked.command.launch, asked.options.concurrent
    if at_once is None and asked.own_cluster:
        at_once = max(1, (os.cpu_count() or 1) // (launch.workers * (launch.cpus_per_worker or 2)))
    with cluster(replace(launch, workers=launch.workers * (at_once or 1), min_workers=None)) as there:
        run = replace(asked.command.run, storage=absolute_storage(asked.command.run.storage))
        command = replace(asked.command, launch=replace(launch, cpus_per_worker=there.cpus_per_worker), run=run)
        yield command, at_once or fitting(command)


def write(
    folder: Storage,
    name: str,
    metric: str,
    recipe: Recipe,
    trials: Sequence[TrialRecord],
    parameters: Sequence[Parameter],
) -> str:
    """The summary's files into the sweep's folder; gives back the text."""
    winner = best(trials)
    if winner is not None:
        folder.write("winner.yaml", to_yaml(applied(recipe, winner.values)).encode())
    text = summary.markdown(name, metric, recipe, trials, parameters, folder.where("winner.yaml"))
    folder.write("summary.md", text.encode())
    for file, draw in (("parallel.png", plots.parallel_coordinates), ("slices.png", plots.slices)):
        picture = io.BytesIO()
        draw(trials, parameters, metric).savefig(picture, dpi=130)
        folder.write(file, picture.getvalue())
    return text
