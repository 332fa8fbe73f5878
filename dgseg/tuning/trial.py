"""One trial: a run on Ray Train like any other, whose scores go to Tune, and whose record in MLflow to the sweep's."""

import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.tune.integration.ray_train import TuneReportCallback

from dgseg.launch.command import Command
from dgseg.launch.ray import run_on_ray
from dgseg.launch.records import made
from dgseg.training.listener import Listener
from dgseg.tuning.record import trial_name
from dgseg.tuning.search import NUMBER
from dgseg.tuning.space import applied


class Ear(Listener):
    """In a trial's first worker; the loop tells the others."""

    def __init__(self, cuts: Any, number: int) -> None:
        self._decided: Future[None] = cuts.decided.remote(number).future()

    def should_stop(self) -> bool:
        return self._decided.done()


@dataclass(frozen=True)
class Listeners:
    """Made in the workers."""

    cuts: Any
    number: int
    tracking: Any = None  # MlflowConfig; None: no record in MLflow

    def __call__(self) -> Sequence[Listener]:
        return [*made(self.tracking, shown=False), Ear(self.cuts, self.number)]


@dataclass(frozen=True)
class Trial:
    """Called by Tune in an actor of its own, which takes no CPU: it waits for its workers."""

    command: Command  # of every trial, but for the values and the name
    cuts: Any
    tracking: Any = None

    def __call__(self, config: dict[str, Any]) -> None:
        # Scores and ends wait for Ray Train's controller, which looks every 2 s by default; a look costs the worker time.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
        number = config[NUMBER]
        recipe = applied(self.command.recipe, {name: value for name, value in config.items() if name != NUMBER})
        command = replace(self.command, recipe=recipe, run=replace(self.command.run, name=trial_name(number)))
        tracking = self.tracking and replace(self.tracking, tags={**self.tracking.tags, "trial": str(number)})
        result = run_on_ray(command, listeners=Listeners(self.cuts, number, tracking), callbacks=[TuneReportCallback()])
        if result.status != "finished" and not ray.get(self.cuts.is_cut.remote(number)):
            raise RuntimeError(f"stopped at step {result.step} by a signal to its workers")
