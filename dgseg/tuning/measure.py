"""What a sweep costs: ASHA against full trials, and Tune and tracking over the same trials without them.

One trial at a time. A run's time is from its recipe's arrival in its folder to its result's, the same for all; what a
trial takes beyond that is its start-up and end on Ray.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any

from dgseg.launch.command import Command
from dgseg.launch.local import run_here
from dgseg.launch.records import maker
from dgseg.machine import machine
from dgseg.training.storage import open_storage
from dgseg.tuning.conduct import conduct
from dgseg.tuning.main import Asked
from dgseg.tuning.record import Record, TrialRecord
from dgseg.tuning.space import applied
from dgseg.tuning.sweep import of_trials


class _Ended(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


def measure(asked: Asked) -> int:
    run, options = asked.command.run, asked.options
    name = run.name or f"measure-{options.measure}-{asked.command.recipe.name}"
    storage = open_storage(run.storage).local
    if storage is None:
        raise ValueError("--measure reads the times of files: give it a --storage on this machine")
    if begun := [path.name for path in storage.glob(f"{name}-*")]:
        raise ValueError(f"{storage} holds {begun[0]}: what goes on cannot be timed. Give another --name")
    try:
        found = _MEASURES[options.measure](asked, storage, name)
    except _Ended as end:
        return end.status
    recipe = asked.command.recipe
    text = json.dumps({"recipe": recipe.name, "steps": recipe.schedule.steps, **found, **machine()}, indent=1)
    (storage / f"{name}.json").write_text(text + "\n")
    print(text)
    return 0


def _asha(asked: Asked, storage: Path, name: str) -> dict[str, Any]:
    """The sweep with ASHA and without."""
    walls, records, steps = {}, {}, {}
    for scheduler in ("asha", "none"):
        began = monotonic()
        _sweep(asked, f"{name}-{scheduler}", scheduler=scheduler)
        walls[scheduler] = monotonic() - began
        records[scheduler] = Record(open_storage(storage / f"{name}-{scheduler}")).of("finished", "stopped")
        steps[scheduler] = sum(each.step for each in records[scheduler])
    return {
        "trials": len(records["none"]),
        "asha_finished": sum(each.status == "finished" for each in records["asha"]),
        "asha_sweep_seconds": walls["asha"],
        "full_sweep_seconds": walls["none"],
        "asha_share_of_time": walls["asha"] / walls["none"],
        "asha_share_of_steps": steps["asha"] / steps["none"],
    }


def _overhead(asked: Asked, storage: Path, name: str) -> dict[str, Any]:
    """Every trial through Tune and then bare, so that a machine whose speed drifts slows both."""
    tuned, bare, walls = [], [], []
    for number in range(asked.options.trials):
        # The same sweep goes on, by a trial.
        _sweep(asked, f"{name}-tuned", scheduler="none", trials=number + 1)
        trial = Record(open_storage(storage / f"{name}-tuned")).trials[number]
        tuned.append(_seconds(storage / f"{name}-tuned" / trial.name))
        walls.append(trial.seconds - tuned[-1])
        bare.append(_bare(asked, trial, storage / f"{name}-bare"))
    pairs = [through / alone - 1 for through, alone in zip(tuned, bare, strict=True)]
    return {
        "trials": len(pairs),
        "tuned_trial_seconds": tuned,
        "bare_trial_seconds": bare,
        "overhead_of_tune_and_tracking": sum(tuned) / sum(bare) - 1,
        "overhead_of_pairs": pairs,
        "overhead_of_pairs_standard_error": statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else None,
        "startup_and_end_seconds_per_trial": statistics.mean(walls),
    }


_MEASURES: Mapping[str, Callable[[Asked, Path, str], dict[str, Any]]] = {"asha": _asha, "overhead": _overhead}


def _sweep(asked: Asked, name: str, **given: Any) -> None:
    # Chance, so that all sweeps have the same trials.
    options = argparse.Namespace(**{**vars(asked.options), "searcher": "random", "concurrent": 1, **given})
    command = replace(asked.command, run=replace(asked.command.run, name=name))
    if status := conduct(replace(asked, command=command, options=options)):
        raise _Ended(status)


def _bare(asked: Asked, trial: TrialRecord, storage: Path) -> float:
    recipe = of_trials(applied(asked.command.recipe, trial.values), asked.options.factor)
    run = replace(asked.command.run, storage=str(storage), name=trial.name, keep=1, keep_best=0)
    # In a process of its own, as a worker on Ray is: what a first step makes, it makes too.
    alone = get_context("spawn").Process(target=_alone, args=(replace(asked.command, recipe=recipe, run=run),))
    alone.start()
    alone.join()
    if alone.exitcode != 0:
        raise _Ended(1)
    return _seconds(storage / trial.name)


def _alone(command: Command) -> None:
    run_here(command, listeners=maker(None, shown=False))


def _seconds(folder: Path) -> float:
    return (folder / "result.json").stat().st_mtime - (folder / "recipe.yaml").stat().st_mtime
