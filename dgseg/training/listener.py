"""What a run reports to its listeners: the progress bar, the journal, MLflow, Ray, a sweep.

Listeners live in rank 0's process alone, unless `every_rank` is set. A listener must not raise for troubles of its own
(a server that is down): its errors stop the run. Values are plain Python numbers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgseg.evaluation import flat_scores
from dgseg.training.recipe import Recipe
from dgseg.training.run import RunConfig


@dataclass(frozen=True)
class RunStart:
    recipe: Recipe
    run: RunConfig
    name: str  # of the run
    folder: str  # of the run in the storage: path or URI
    step: int  # the next to train: above 0 when resumed
    world_size: int
    device: str
    datasets: Mapping[str, Mapping[str, Any]]  # role and place ("source0", "test2") -> spec, samples, digest …


@dataclass(frozen=True)
class StepReport:
    step: int  # trained so far
    max_steps: int
    losses: Mapping[str, float]  # terms as minimised, and "loss", their sum; means since the last report
    metrics: Mapping[str, float]  # of objectives, sampler, loader; "lr", "gradient_norm"
    images_per_second: float
    seconds: float  # since this process began to train
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds since the last report, by part; see clock.py
    memory: int = 0  # peak bytes: what torch held of the GPU, or what this process held of the machine


@dataclass(frozen=True)
class ScoreReport:
    step: int
    final: bool  # data.test, at the end; else data.validation
    scores: Mapping[str, Mapping[str, float]]  # domain -> miou, macc, pixel_accuracy, "iou/road", …: fractions
    averages: Mapping[str, float]  # "adverse", "standard", "all", "Avg2" … and "validation"
    pictures: Mapping[str, Path] = field(default_factory=dict)  # panels of predictions, PNG

    @property
    def named(self) -> dict[str, float]:
        """All of them by the names that they are kept under: "fog/miou", "adverse/miou", "validation/miou"."""
        return flat_scores(self.scores, self.averages, validation=not self.final)


@dataclass(frozen=True)
class CheckpointReport:
    step: int
    path: str
    score: float | None
    seconds: float  # that training stood still for it


@dataclass(frozen=True)
class ProfileReport:
    step: int
    files: tuple[str, ...]  # paths or URIs of the first rank's: a trace, and of a GPU its memory


@dataclass(frozen=True)
class RunEnd:
    status: str  # "finished", "stopped" (can be resumed), "failed"
    step: int
    weights: Path | None = None  # the final model's, when finished
    reason: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds of this process, by part; see clock.py


class Listener:
    """Every method does nothing here."""

    every_rank = False

    def on_start(self, start: RunStart) -> None:
        return

    def on_step(self, report: StepReport) -> None:
        return

    def on_scores(self, report: ScoreReport) -> None:
        return

    def on_checkpoint(self, report: CheckpointReport) -> None:
        return

    def on_profile(self, report: ProfileReport) -> None:
        return

    def on_end(self, end: RunEnd) -> None:
        return

    def should_stop(self) -> bool:
        """Asked after every step: True lets the run save and end; the same name resumes it later."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Kept in every checkpoint under the listener's class name: an MLflow run id, say."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Before on_start, when a run is resumed."""
        return


class Listeners(Listener):
    """Several as one."""

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self._listeners = list(listeners)

    def on_start(self, start: RunStart) -> None:
        for each in self._listeners:
            each.on_start(start)

    def on_step(self, report: StepReport) -> None:
        for each in self._listeners:
            each.on_step(report)

    def on_scores(self, report: ScoreReport) -> None:
        for each in self._listeners:
            each.on_scores(report)

    def on_checkpoint(self, report: CheckpointReport) -> None:
        for each in self._listeners:
            each.on_checkpoint(report)

    def on_profile(self, report: ProfileReport) -> None:
        for each in self._listeners:
            each.on_profile(report)

    def on_end(self, end: RunEnd) -> None:
        for each in self._listeners:
            each.on_end(end)

    def should_stop(self) -> bool:
        return any(each.should_stop() for each in self._listeners)

    def state_dict(self) -> dict[str, Any]:
        return {type(each).__name__: each.state_dict() for each in self._listeners}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for each in self._listeners:
            if own := state.get(type(each).__name__):
                each.load_state_dict(own)
