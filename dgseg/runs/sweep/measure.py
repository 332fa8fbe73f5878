"""What a sweep costs: ASHA against full trials, and Tune and tracking over the same trials without them.

One trial at a time. A run is timed from its recipe's arrival in its folder to its last file, without its start-up.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dgseg.machine import machine
from dgseg.runs.launch.cluster import cluster
from dgseg.runs.launch.command import Command
from dgseg.runs.launch.local import run_here
from dgseg.runs.launch.records import maker
from dgseg.runs.sweep.main import SweepArguments
from dgseg.runs.sweep.record import TrialRecord, open_study, trials
from dgseg.runs.sweep.run import run_sweep
from dgseg.runs.sweep.space import applied
from dgseg.runs.sweep.sweep import of_trials
from dgseg.training.storage import open_storage


class Ended(Exception):
    """A run failed or was stopped."""

    def __init__(self, status: int) -> None:
        self.status = status


def measure(arguments: SweepArguments) -> int:
    run, options = arguments.command.run, arguments.options
    name = run.name or f"measure-{options.measure}-{arguments.command.recipe.name}"
    storage = open_storage(run.storage).local
    if storage is None:
        raise ValueError("--measure reads the times of files: give it a --storage on this machine")
    if begun := [path.name for path in storage.glob(f"{name}-*")]:
        raise ValueError(f"{storage} holds {begun[0]}: a resumed run cannot be timed. Give another --name")
    try:
        results = _MEASURES[options.measure](arguments, storage, name)
    except Ended as end:
        return end.status
    recipe = arguments.command.recipe
    text = json.dumps({"recipe": recipe.name, "steps": recipe.schedule.steps, **results, **machine()}, indent=1)
    (storage / f"{name}.json").write_text(text + "\n")
    print(text)
    return 0


def _asha(arguments: SweepArguments, storage: Path, name: str) -> dict[str, Any]:
    """The sweep with ASHA, against as many trials like those that it let come to their end."""
    began = time.monotonic()
    run = _sweep(arguments, storage / f"{name}-asha", "asha")
    wall = time.monotonic() - began
    ended = [each for each in run if each.status in ("finished", "stopped")]
    whole = [each for each in ended if each.status == "finished"]
    own = {each.number: seconds(storage / f"{name}-asha" / each.name) for each in ended}
    full = len(ended) * statistics.mean(each.seconds for each in whole)
    return {
        "trials": len(ended),
        "finished_trials": len(whole),
        "startup_and_end_seconds_per_trial": statistics.mean(each.seconds - own[each.number] for each in ended),
        "asha_sweep_seconds": wall,
        "full_trials_seconds": full,
        "asha_share_of_time": wall / full,
        "asha_share_of_own_time": sum(own.values()) / len(own) / statistics.mean(own[each.number] for each in whole),
        "asha_share_of_steps": sum(each.step for each in ended) / len(ended) / arguments.command.recipe.schedule.steps,
    }


def _overhead(arguments: SweepArguments, storage: Path, name: str) -> dict[str, Any]:
    """The same trials through Tune with a record in MLflow, as jobs of Ray Train alone, and in plain processes."""
    folders = {kind: storage / f"{name}-{kind}" for kind in ("tuned", "job", "process")}
    run = _sweep(arguments, folders["tuned"], "none")
    for trial in run:
        for kind, train in (("job", _job), ("process", _process)):
            process = get_context("spawn").Process(target=train, args=(_alone(arguments, trial, folders[kind]),))
            process.start()
            process.join()
            if process.exitcode:
                raise Ended(process.exitcode)
    own = {kind: [seconds(folder / trial.name) for trial in run] for kind, folder in folders.items()}
    return {
        "trials": len(run),
        **{f"{kind}_seconds": each for kind, each in own.items()},
        "overhead_of_tune_and_tracking": over(own["tuned"], own["job"]),
        "overhead_of_ray_train": over(own["job"], own["process"]),
        "overhead_of_all": over(own["tuned"], own["process"]),
    }


_MEASURES: Mapping[str, Callable[[SweepArguments, Path, str], dict[str, Any]]] = {"asha": _asha, "overhead": _overhead}


def seconds(run: Path) -> float:
    files = [path.stat().st_mtime for path in run.iterdir() if path.is_file()]
    return max(files) - (run / "recipe.yaml").stat().st_mtime


def over(own: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """Shares by which the first take longer than the second, pair by pair."""
    ratios = [one / other - 1 for one, other in zip(own, others, strict=True)]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None
    return {"mean": statistics.mean(ratios), "standard_error": error, "of_trials": ratios}


def _sweep(arguments: SweepArguments, folder: Path, scheduler: str) -> list[TrialRecord]:
    # Random, so that all sweeps have the same trials.
    changes = {"searcher": "random", "jobs": 1, "scheduler": scheduler}
    options = argparse.Namespace(**{**vars(arguments.options), **changes})
    command = replace(arguments.command, run=replace(arguments.command.run, name=folder.name))
    if status := run_sweep(replace(arguments, command=command, options=options)):
        raise Ended(status)
    return trials(open_study(open_storage(folder)))


def _job(command: Command) -> None:
    with cluster(command.launch) as launch:
        from dgseg.runs.launch.ray import run_on_ray

        run_on_ray(replace(command, launch=launch), listeners=maker(None, shown=False))


def _process(command: Command) -> None:
    run_here(command, listeners=maker(None, shown=False))


def _alone(arguments: SweepArguments, trial: TrialRecord, storage: Path) -> Command:
    """The trial as a run like any other, without a record in MLflow."""
    recipe = of_trials(applied(arguments.command.recipe, trial.values), arguments.options.factor)
    run = replace(arguments.command.run, storage=str(storage), name=trial.name, keep=1, keep_best=0)
    return replace(arguments.command, recipe=recipe, run=run)
