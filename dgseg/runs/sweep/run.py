"""A sweep from beginning to end: its folder, its cluster, its table, its run in MLflow, its summary."""

from __future__ import annotations

import io
import logging
import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from ray import tune
from ray.exceptions import RayActorError
from rich.console import Console

from dgseg.recipes import to_yaml
from dgseg.runs.executor import KILLED
from dgseg.runs.launch import records
from dgseg.runs.launch.cluster import cluster
from dgseg.runs.launch.command import Command
from dgseg.runs.launch.ray import absolute_storage
from dgseg.runs.sweep import plots, summary
from dgseg.runs.sweep.main import PROG, SweepArguments
from dgseg.runs.sweep.record import TrialRecord, best, open_study, trials
from dgseg.runs.sweep.record import trials as records_of
from dgseg.runs.sweep.search import NUMBER
from dgseg.runs.sweep.show import Screen
from dgseg.runs.sweep.space import Parameter, applied
from dgseg.runs.sweep.sweep import Sweep, SweepConfig, ended, objective
from dgseg.training.recipe import Recipe
from dgseg.training.storage import Storage

if TYPE_CHECKING:
    from dgseg.runs.sweep.tracked import Parent


def run_sweep(arguments: SweepArguments) -> int:
    """0: every trial has ended and one has finished; 130: stopped before; 1: no trial has finished."""
    config = SweepConfig(**{each.name: getattr(arguments.options, each.name) for each in fields(SweepConfig)})
    objective(arguments.command.recipe, config.on)  # what is refused is refused before a cluster starts
    # Lists of Tune's that say what the table says, and complain of files that it was told not to write.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with joined(arguments) as (command, at_once), _sigterm_as_sigint():
        sweep = Sweep(command, config, arguments.parameters)
        with sweep.exclusive() as settings:
            return _run(sweep, settings, at_once)


def _run(sweep: Sweep, settings: dict[str, Any], at_once: int | None) -> int:
    count, parameters, folder = sweep.config.trials, sweep.parameters, sweep.folder
    console = Console(stderr=True)
    study = open_study(folder)
    begun = trials(study)
    if len(begun) > count:
        raise ValueError(f"--trials is {count}, and {sweep.name} has begun {len(begun)}: they may only grow")
    if begun:
        console.print(f"resuming {sweep.name}: {ended(study)} of {count} trials have ended")
    reporter = Reporter(sweep, study, Screen(study, parameters, sweep.metric, sweep.steps, count, console))
    mlflow = records.tracking(sweep.command.launch)
    if mlflow is not None:
        from dgseg.runs.sweep.tracked import Parent

        parent = reporter.parent = Parent(
            mlflow, sweep.name, settings.get("mlflow"), lambda run_id: sweep.keep({**settings, "mlflow": run_id})
        )
        parent.start({name: value for name, value in settings.items() if name not in ("recipe", "mlflow")})
        mlflow = replace(mlflow, parent=parent.run_id, tags={"sweep": sweep.name})
    if ended(study) < count:
        with reporter.screen:
            sweep.run(at_once, study, [reporter], mlflow)
    complete = ended(study) >= count
    text, files = write(folder, sweep.name, sweep.metric, sweep.command.recipe, trials(study), parameters)
    if reporter.parent is not None:
        for trial in trials(study):  # also those whose end a kill kept from it
            if trial.status == "stopped":
                reporter.parent.stopped(trial, folder.local and folder.local / trial.name, sweep.steps)
        reporter.parent.end("FINISHED" if complete else "KILLED", text, folder.local, tuple(files))
    print(text)
    print(f"written to {folder.where()}: {', '.join(files)}")
    if not complete:
        print(f"{PROG}: stopped; the same command resumes", file=sys.stderr)
        return 130
    return 0 if best(trials(study)) else 1


class Reporter(tune.Callback):  # type: ignore[misc]
    """Tune's events to the table and to MLflow."""

    def __init__(self, sweep: Sweep, study: optuna.Study, screen: Screen) -> None:
        self.sweep, self.study, self.screen = sweep, study, screen
        self.parent: Parent | None = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.screen.changed(self._of(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        self.screen.changed(self._of(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._of(trial)
        self.screen.changed(record)
        if self.parent is not None:
            local = self.sweep.folder.local
            self.parent.ended(record, records_of(self.study), local and local / record.name, self.sweep.steps)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error: Any = "Ray Tune gives no reason"
        if trial.pickled_error_file:  # in this process's folder, from where Tune copies it later
            error = pickle.loads(Path(trial.pickled_error_file).read_bytes())
            error = KILLED if isinstance(error, RayActorError) else getattr(error, "cause", None) or error
        self.sweep.search.fail(trial.trial_id, str(error))
        self.on_trial_complete(iteration, trials, trial)

    def _of(self, trial: Any) -> TrialRecord:
        record: TrialRecord = records_of(self.study)[trial.config[NUMBER]]
        return record

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles callbacks, to restore them


@contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """Tune handles Ctrl-C alone; Ray's handler of SIGTERM ends without a word."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def joined(arguments: SweepArguments) -> Iterator[tuple[Command, int | None]]:
    """A cluster with room for the trials that run side by side: the trials' command there, and how many they are."""
    launch, jobs = arguments.command.launch, arguments.options.jobs
    if jobs is None and arguments.own_cluster:
        jobs = max(1, (os.cpu_count() or 1) // (launch.workers * (launch.cpus_per_worker or 2)))
    with cluster(replace(launch, workers=launch.workers * (jobs or 1), min_workers=None)) as there:
        run = replace(arguments.command.run, storage=absolute_storage(arguments.command.run.storage))
        launch = replace(launch, cpus_per_worker=there.cpus_per_worker)
        yield replace(arguments.command, launch=launch, run=run), jobs


def write(
    folder: Storage,
    name: str,
    metric: str,
    recipe: Recipe,
    trials: Sequence[TrialRecord],
    parameters: Sequence[Parameter],
) -> tuple[str, list[str]]:
    """The summary's files into the sweep's folder: the text, and the names of the files."""
    files = ["summary.md"]
    winner = best(trials)
    if winner is not None:
        files.append("winner.yaml")
        folder.write("winner.yaml", to_yaml(applied(recipe, winner.values)).encode())
    text = summary.markdown(name, metric, recipe, trials, parameters, folder.where("winner.yaml"))
    folder.write("summary.md", text.encode())
    for file, figure in plots.figures(trials, parameters, metric).items():
        picture = io.BytesIO()
        figure.savefig(picture, dpi=130, bbox_inches="tight")
        folder.write(file, picture.getvalue())
        files.append(file)
    return text, files
