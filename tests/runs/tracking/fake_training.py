"""A training's reports without the training: what the loop would say, at chosen steps."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dgseg.data.augment.presets import Streets
from dgseg.data.labels import CLASSES
from dgseg.objectives import BoundaryEmphasis, CrossEntropy
from dgseg.recipes import to_yaml
from dgseg.runs.tracking.listener import MlflowConfig, MlflowListener
from dgseg.training.journal import Journal
from dgseg.training.listener import CheckpointReport, Listener, RunStart, ScoreReport, StepReport
from dgseg.training.recipe import (
    AdamWConfig,
    DataConfig,
    ModelConfig,
    Recipe,
    ScheduleConfig,
)
from dgseg.training.run import RunConfig

DOMAINS = ("city", "country", "suburb", "fog", "rain", "snow", "night")


class Recorded(Listener):
    """A journal and the listener that ships it, as a run has them."""

    def __init__(self, config: MlflowConfig) -> None:
        self.journal, self.mlflow = Journal(), MlflowListener(config)
        self._each: tuple[Listener, ...] = (self.journal, self.mlflow)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def tell(report: Any) -> None:
            for listener in self._each:
                getattr(listener, name)(report)

        return tell

    @property
    def key(self) -> str:
        assert self.journal.key is not None
        return self.journal.key


def recipe(**model_options: Any) -> Recipe:
    return Recipe(
        "flexseg_streets",
        DataConfig(
            ("streets=generated@train", "streets=game@train"),
            Streets(),
            8,
            validation=("streets=dusk@val",),
            test=tuple(f"streets={domain}@test" for domain in DOMAINS),
        ),
        ModelConfig("bisenet_mini", options=model_options),
        {"ce": CrossEntropy.Config(), "ube": BoundaryEmphasis.Config()},
        AdamWConfig(),
        ScheduleConfig(steps=200),
    )


def start(folder: Path | str, *, step: int = 0, name: str = "flexseg_streets") -> RunStart:
    datasets = {
        "source0": {"spec": "streets=generated@train", "samples": 4000, "digest": "5f1de0aa91c2"},
        "source1": {"spec": "streets=game@train", "samples": 4000, "digest": "91c25f1de0aa"},
        "validation0": {"spec": "streets=dusk@val", "samples": 100, "digest": "0aa91c25f1de"},
        **{
            f"test{place}": {"spec": f"streets={domain}@test", "samples": 200, "digest": f"e0aa91c25f{place:02d}"}
            for place, domain in enumerate(DOMAINS)
        },
    }
    if "://" not in str(folder) and not Path(folder).is_file():
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "recipe.yaml").write_text(to_yaml(recipe()))
    return RunStart(recipe(), RunConfig(name=name), name, str(folder), step, 1, "cpu", datasets)


def step_report(step: int, **metrics: float) -> StepReport:
    fall = math.exp(-step / 60)
    return StepReport(
        step,
        200,
        {"loss": 0.4 + 2.6 * fall, "ce": 0.3 + 2 * fall, "ube": 0.1 + 0.6 * fall},
        {"lr": 6e-5 * (1 - step / 200), "gradient_norm": 1 + 3 * fall, "sampler/by_loss": step / 200, **metrics},
        31.5,
        step * 0.25,
    )


def scores(step: int, *, final: bool, folder: Path | None = None) -> ScoreReport:
    """folder: where the pictures lie, the run's."""
    rng = np.random.default_rng(step)
    domains = DOMAINS if final else ("dusk",)
    pictures = {}
    if folder is not None:
        for domain in domains:
            pictures[domain] = folder / f"{domain}.png"
            Image.fromarray(rng.integers(0, 255, (64, 192, 3), np.uint8)).save(pictures[domain])
    per_domain = {}
    for domain in domains:
        ious = rng.uniform(0.1, 0.9, len(CLASSES))
        per_domain[domain] = {
            "miou": float(ious.mean()),
            "macc": float(ious.mean() + 0.05),
            "pixel_accuracy": 0.87,
            **{f"iou/{name}": float(iou) for name, iou in zip(CLASSES, ious, strict=True)},
        }
    averages = {"adverse": 0.41, "standard": 0.52, "all": 0.46} if final else {"validation": 0.5}
    return ScoreReport(step, final, per_domain, averages, pictures)


def checkpoint(step: int) -> CheckpointReport:
    return CheckpointReport(step, f"runs/flexseg_streets/checkpoints/step-{step:06d}", 0.5, 0.08)
