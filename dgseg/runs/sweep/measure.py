"""What a sweep costs: ASHA against full trials, and Tune and tracking over the same trials without them.

One trial at a time.
"""

import argparse
import json
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import psutil

from dgseg.machine import machine
from dgseg.runs.launch.cluster import cluster
from dgseg.runs.launch.command import Command
from dgseg.runs.launch.local import run_here
from dgseg.runs.launch.records import maker
from dgseg.runs.sweep.conduct import conduct
from dgseg.runs.sweep.main import Asked
from dgseg.runs.sweep.record import Record, TrialRecord, trial_name
from dgseg.runs.sweep.space import applied
from dgseg.runs.sweep.sweep import of_trials
from dgseg.training.journal import FILE as JOURNAL
from dgseg.training.storage import open_storage

TURN = 4.0  # seconds; Ray takes a process for lost after ten
PATIENCE = 60.0  # seconds that a run has to save and end when the other has failed


class Ended(Exception):
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
    except Ended as end:
        return end.status
    recipe = asked.command.recipe
    text = json.dumps({"recipe": recipe.name, "steps": recipe.schedule.steps, **found, **machine()}, indent=1)
    (storage / f"{name}.json").write_text(text + "\n")
    print(text)
    return 0


def _asha(asked: Asked, storage: Path, name: str) -> dict[str, Any]:
    """The sweep with ASHA, against as many trials like those that it let come to their end."""
    began, name = time.monotonic(), f"{name}-asha"
    _sweep(asked, name, scheduler="asha")
    wall = time.monotonic() - began
    trials = Record(open_storage(storage / name)).of("finished", "stopped")
    whole = [each for each in trials if each.status == "finished"]
    own = {each.number: _own_seconds(storage / name / each.name) for each in trials}
    full = len(trials) * statistics.mean(each.seconds for each in whole)
    return {
        "trials": len(trials),
        "finished_trials": len(whole),
        "finished_trial_seconds": [each.seconds for each in whole],
        "finished_trial_own_seconds": [own[each.number] for each in whole],
        "startup_and_end_seconds_per_trial": statistics.mean(each.seconds - own[each.number] for each in trials),
        "asha_sweep_seconds": wall,
        "full_trials_seconds": full,
        "asha_share_of_time": wall / full,
        "asha_share_of_own_time": sum(own.values()) / len(own) / statistics.mean(own[each.number] for each in whole),
        "asha_share_of_steps": sum(each.step for each in trials) / len(trials) / asked.command.recipe.schedule.steps,
    }


def _own_seconds(run: Path) -> float:
    return (run / JOURNAL).stat().st_mtime - (run / "recipe.yaml").stat().st_mtime


def _overhead(asked: Asked, storage: Path, name: str) -> dict[str, Any]:
    """Every trial three times, in turns: through Tune with a record in MLflow, as a job of Ray Train alone, and in a
    plain process."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nobody else would wake what stands still
    through, job, process = (storage / f"{name}-{kind}" for kind in ("tuned", "job", "process"))
    seconds: dict[str, list[float]] = {"tuned": [], "job": [], "process": []}
    startup: dict[str, list[float]] = {"tuned": [], "job": [], "process": []}
    for number in range(asked.options.trials):
        # The same sweep goes on, by a trial.
        more = {"scheduler": "none", "trials": number + 1}
        with ExitStack() as stack:
            tuned = stack.enter_context(Turns(_sweep, (asked, through.name), more, through / trial_name(number)))
            tuned.begin()
            trial = Record(open_storage(through)).trials[number]
            runs = {"tuned": tuned}
            for kind, call, folder in (("job", _job, job), ("process", _process, process)):
                runs[kind] = stack.enter_context(Turns(call, (asked, trial, folder), {}, folder / trial.name))
                runs[kind].begin()
            while waiting := [each for each in runs.values() if not each.ended]:
                for each in waiting:
                    each.turn()
        for kind, run in runs.items():
            seconds[kind].append(run.seconds)
            startup[kind].append(run.startup)
    return {
        "trials": asked.options.trials,
        **{f"{kind}_seconds": found for kind, found in seconds.items()},
        "overhead_of_tune_and_tracking": _over(seconds["tuned"], seconds["job"]),
        "overhead_of_ray_train": _over(seconds["job"], seconds["process"]),
        "overhead_of_all": _over(seconds["tuned"], seconds["process"]),
        **{f"startup_seconds_{kind}": statistics.mean(found) for kind, found in startup.items()},
    }


def _over(seconds: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    ratios = [one / other - 1 for one, other in zip(seconds, others, strict=True)]
    return {
        "mean": statistics.mean(ratios),
        "standard_error": statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None,
        "of_trials": ratios,
    }


_MEASURES: Mapping[str, Callable[[Asked, Path, str], dict[str, Any]]] = {"asha": _asha, "overhead": _overhead}


def _sweep(asked: Asked, name: str, **given: Any) -> None:
    # Chance, so that all sweeps have the same trials.
    options = argparse.Namespace(**{**vars(asked.options), "searcher": "random", "concurrent": 1, **given})
    command = replace(asked.command, run=replace(asked.command.run, name=name))
    if status := conduct(replace(asked, command=command, options=options)):
        raise Ended(status)


def _job(asked: Asked, trial: TrialRecord, storage: Path) -> None:
    from dgseg.runs.launch.ray import run_on_ray

    command = _alone(asked, trial, storage)
    with cluster(command.launch) as launch:
        run_on_ray(replace(command, launch=launch), listeners=maker(None, shown=False))


def _process(asked: Asked, trial: TrialRecord, storage: Path) -> None:
    run_here(_alone(asked, trial, storage), listeners=maker(None, shown=False))


def _alone(asked: Asked, trial: TrialRecord, storage: Path) -> Command:
    """The trial as a run like any other, without a record in MLflow."""
    recipe = of_trials(applied(asked.command.recipe, trial.values), asked.options.factor)
    run = replace(asked.command.run, storage=str(storage), name=trial.name, keep=1, keep_best=0)
    return replace(asked.command, recipe=recipe, run=run)


class Turns:
    """A process and all that it starts, which run for a few seconds at a time and stand still between: several
    in turns see the same machine, whose speed may drift by more than what is measured. Timed is a run, from its
    recipe's arrival in its folder to its result's, less the time that it stood still."""

    def __init__(self, call: Callable[..., Any], arguments: tuple[Any, ...], more: dict[str, Any], run: Path) -> None:
        self._process = get_context("spawn").Process(target=_quietly, args=(call, arguments, more))
        self._begun, self._result = run / "recipe.yaml", run / "result.json"
        self._still: set[psutil.Process] = set()
        self.startup = self.seconds = 0.0

    @property
    def ended(self) -> bool:
        return self._result.exists()

    def begin(self) -> None:
        began = time.time()
        self._process.start()
        self._wait(lambda: self._begun.exists())
        self._stop()
        self.seconds = time.time() - self._begun.stat().st_mtime
        self.startup = self._begun.stat().st_mtime - began

    def turn(self) -> None:
        began = time.time()
        _send(signal.SIGCONT, self._still)
        self._wait(lambda: self.ended or time.time() > began + TURN)
        _send(signal.SIGSTOP, self._still)  # first those that are known, at once
        self.seconds += (self._result.stat().st_mtime if self.ended else time.time()) - began
        self._stop()

    def _wait(self, until: Callable[[], bool]) -> None:
        while not until():
            if self._process.exitcode is not None:
                raise Ended(self._process.exitcode or 1)
            time.sleep(0.01)

    def _stop(self) -> None:
        """All of them, also those that are just starting."""
        known: set[psutil.Process] = set()
        this = psutil.Process(self._process.pid)
        while new := {this, *this.children(recursive=True)} - known:
            _send(signal.SIGSTOP, new)
            known |= new
        self._still = known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._process.pid is None:
            return
        if self._process.is_alive():
            if kind is not None:
                self._stop()  # to know what it has started since
            _send(signal.SIGCONT, self._still)
            if kind is not None:
                self._process.terminate()
                self._process.join(PATIENCE)
                _send(signal.SIGKILL, self._still)
        self._process.join()
        if kind is None and self._process.exitcode:
            raise Ended(self._process.exitcode)


def _send(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(number)


def _quietly(call: Callable[..., Any], arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
    try:
        call(*arguments, **more)
    except Ended as end:
        raise SystemExit(end.status) from None
