"""What a sweep costs: ASHA against full trials, and Tune and tracking over the same trials without them.

Three passes, one trial at a time: a sweep with ASHA (none with --scheduler none), one without, and trials of the latter
again in this process, bare.
A run's time is from its recipe's arrival in its folder to its result's, the same for all; what a trial takes beyond
that is its start-up and end on Ray.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from time import monotonic

from dgseg.launch.local import run_here
from dgseg.launch.records import maker
from dgseg.machine import machine
from dgseg.training.storage import open_storage
from dgseg.tuning.conduct import conduct
from dgseg.tuning.main import Asked
from dgseg.tuning.record import Record, TrialRecord
from dgseg.tuning.space import applied
from dgseg.tuning.sweep import of_trials

BARE = 3  # trials that are run again without Tune


def measure(asked: Asked) -> int:
    run, options = asked.command.run, asked.options
    name = run.name or f"measure-{asked.command.recipe.name}"
    storage = open_storage(run.storage).local
    if storage is None:
        raise ValueError("--measure reads the times of files: give it a --storage on this machine")
    schedulers = ("asha", "none") if options.scheduler == "asha" else ("none",)
    for scheduler in schedulers:
        if (storage / f"{name}-{scheduler}").exists():
            raise ValueError(f"{storage / name}-{scheduler} has begun, and cannot be timed: give another --name")
    walls, records = {}, {}
    for scheduler in schedulers:
        began = monotonic()
        # Chance, so that both sweeps have the same trials.
        given = {**vars(options), "scheduler": scheduler, "searcher": "random", "concurrent": 1}
        command = replace(asked.command, run=replace(run, name=f"{name}-{scheduler}"))
        if status := conduct(replace(asked, command=command, options=argparse.Namespace(**given))):
            return status
        walls[scheduler] = monotonic() - began
        records[scheduler] = Record(open_storage(storage / f"{name}-{scheduler}")).of("finished", "stopped")
    full = records["none"]
    tuned = {each.number: _seconds(storage / f"{name}-none" / each.name) for each in full}
    bare = {each.number: _bare(asked, each, storage / f"{name}-bare") for each in full[:BARE]}
    found = {
        "recipe": asked.command.recipe.name,
        "steps": asked.command.recipe.schedule.steps,
        "trials": len(full),
        "full_sweep_seconds": walls["none"],
    }
    if "asha" in walls:
        found |= {
            "asha_sweep_seconds": walls["asha"],
            "asha_share_of_full": walls["asha"] / walls["none"],
            "asha_finished": sum(each.status == "finished" for each in records["asha"]),
        }
    found |= {
        "trial_seconds": sum(tuned.values()) / len(tuned),
        "bare_trial_seconds": sum(bare.values()) / len(bare),
        "overhead_of_tune_and_tracking": sum(tuned[number] for number in bare) / sum(bare.values()) - 1,
        "startup_and_end_seconds_per_trial": sum(each.seconds - tuned[each.number] for each in full) / len(full),
        **machine(),
    }
    text = json.dumps(found, indent=1)
    (storage / f"{name}.json").write_text(text + "\n")
    print(text)
    return 0


def _bare(asked: Asked, trial: TrialRecord, storage: Path) -> float:
    recipe = of_trials(applied(asked.command.recipe, trial.values), asked.options.factor)
    run = replace(asked.command.run, storage=str(storage), name=trial.name, keep=1, keep_best=0)
    run_here(replace(asked.command, recipe=recipe, run=run), listeners=maker(None, shown=False))
    return _seconds(storage / trial.name)


def _seconds(folder: Path) -> float:
    return (folder / "result.json").stat().st_mtime - (folder / "recipe.yaml").stat().st_mtime
