"""One trial: a run on Ray Train like any other, whose scores go to Tune, and whose record in MLflow to the sweep's."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune

from dgseg.runs.launch.command import Command
from dgseg.runs.launch.ray import run_on_ray
from dgseg.runs.launch.records import made
from dgseg.runs.sweep.record import trial_name
from dgseg.runs.sweep.search import NUMBER
from dgseg.runs.sweep.space import applied
from dgseg.training.listener import Listener, ScoreReport


class Ear(Listener):
    """In a trial's first worker; the loop tells the others."""

    def __init__(self, cuts: Any, number: int) -> None:
        self._decided: Future[None] = cuts.decided.remote(number).future()

    def should_stop(self) -> bool:
        return self._decided.done()


class Scores(Listener):
    """In the trial's own process, which hears what the first worker tells: to Tune. Ray's way from its workers to Tune
    is a process more, which asks and is asked all the time, and waits for looks that are seconds apart."""

    def on_scores(self, report: ScoreReport) -> None:
        tune.report({"step": report.step, "final": report.final, **report.named})


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
        number = config[NUMBER]
        recipe = applied(self.command.recipe, {name: value for name, value in config.items() if name != NUMBER})
        command = replace(self.command, recipe=recipe, run=replace(self.command.run, name=trial_name(number)))
        tracking = self.tracking and replace(self.tracking, tags={**self.tracking.tags, "trial": str(number)})
        result = run_on_ray(command, listeners=Listeners(self.cuts, number, tracking), screen=[Scores()])
        if result.status != "finished" and not ray.get(self.cuts.is_cut.remote(number)):
            raise RuntimeError(f"stopped at step {result.step} by a signal to its workers")
