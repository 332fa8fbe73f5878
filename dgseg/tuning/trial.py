"""One trial: a run on Ray Train like any other, whose scores go to Tune, and whose record in MLflow to the sweep's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

from dgseg.launch.command import Command
from dgseg.launch.main import kept
from dgseg.launch.ray import run_on_ray
from dgseg.training.listener import Listener
from dgseg.tuning.search import NUMBER
from dgseg.tuning.space import applied


@dataclass(frozen=True)
class Listeners:
    """Made in the workers."""

    tracking: Any = None  # MlflowConfig; None: no record in MLflow

    def __call__(self) -> Sequence[Listener]:
        return [*kept(), *([self.tracking.build()] if self.tracking is not None else [])]


@dataclass(frozen=True)
class Trial:
    """Called by Tune in an actor of its own, which takes no CPU: it waits for its workers."""

    command: Command  # of every trial, but for the values and the name
    tracking: Any = None

    def __call__(self, config: dict[str, Any]) -> None:
        values = {name: value for name, value in config.items() if name != NUMBER}
        name = f"trial-{config[NUMBER]:03d}"
        command = replace(
            self.command, recipe=applied(self.command.recipe, values), run=replace(self.command.run, name=name)
        )
        tracking = self.tracking and replace(self.tracking, tags={**self.tracking.tags, "trial": str(config[NUMBER])})
        result = run_on_ray(command, listeners=Listeners(tracking), callbacks=[TuneReportCallback()])
        if result.status != "finished":
            raise RuntimeError(f"was asked to stop at step {result.step}, by a signal to its workers")
