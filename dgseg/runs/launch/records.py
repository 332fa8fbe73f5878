"""Who listens to a run beside the screen: its journal, and MLflow where it is installed."""

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dgseg.runs.launch.config import LaunchConfig
from dgseg.training.journal import Journal
from dgseg.training.listener import Listener
from dgseg.training.progress import Progress

if TYPE_CHECKING:
    from dgseg.runs.tracking.listener import MlflowConfig


def tracking(launch: LaunchConfig) -> "MlflowConfig | None":
    """Resolved where the user stands: a worker's folder is another one."""
    if not launch.mlflow:
        return None
    if importlib.util.find_spec("mlflow") is None:
        print("MLflow is not installed: the record is metrics.jsonl in the run's folder alone")
        return None
    from dgseg.runs.tracking.listener import MlflowConfig

    return MlflowConfig(experiment=launch.experiment).resolved()


def made(config: "MlflowConfig | None", shown: bool) -> list[Listener]:
    listeners: list[Listener] = [Progress()] if shown else []
    listeners.append(Journal())
    if config is not None:
        listeners.append(config.build())
    return listeners


def maker(config: "MlflowConfig | None", *, shown: bool) -> Callable[[], Sequence[Listener]]:
    """Listeners are made where they are heard."""
    return partial(made, config, shown)
