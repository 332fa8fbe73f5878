"""A study's runs: each by a name of its own, none of them twice."""

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgseg.data import from_spec
from dgseg.data.datasets import parse_spec
from dgseg.models import save_weights
from dgseg.runs import executor
from dgseg.runs.executor import Job, Outcome
from dgseg.runs.study.grids import Grid, with_option
from dgseg.runs.study.records import RESULT, Record, of_run
from dgseg.training import Journal, Listener, RunConfig, train
from dgseg.training.assemble import model
from dgseg.training.listener import ScoreReport, StepReport
from dgseg.training.recipe import Recipe
from dgseg.training.saver import WEIGHTS
from dgseg.training.storage import open_storage
from dgseg.training.yaml import to_yaml

if TYPE_CHECKING:
    from dgseg.runs.tracking.listener import MlflowConfig


@dataclass(frozen=True)
class Run:
    label: str  # of its row
    recipe: Recipe
    name: str
    after: str | None = None  # name of the run whose weights it begins with


def plan(grid: Grid, seeds: Sequence[int]) -> list[Run]:
    """Seed by seed, so that a study that is stopped has whole seeds of every row."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {' '.join(map(str, seeds))}: give at least one, each once")
    runs = []
    for seed in seeds:
        names: dict[str, str] = {}  # of this seed's rows
        for row in grid.rows:
            recipe = replace(row.recipe, seed=seed)
            run = _run(row.label, recipe, names[row.after] if row.after else None)
            names[row.label] = run.name
            runs.append(run)
    return runs


def _run(label: str, recipe: Recipe, after: str | None) -> Run:
    # A run's folder belongs to one recipe, whole: another number of steps is another run.
    digest = hashlib.sha256((to_yaml(recipe) + (after or "")).encode()).hexdigest()[:8]
    return Run(label, recipe, f"{recipe.name}-seed{recipe.seed}-{digest}", after)


def finished(runs: Sequence[Run], storage: str) -> dict[str, Record]:
    """By name."""
    folder = open_storage(storage)
    return {run.name: of_run(folder.folder(run.name)) for run in runs if folder.exists(f"{run.name}/{RESULT}")}


def local_folder(storage: str) -> Path:
    folder = open_storage(storage).local
    if folder is None:
        raise ValueError(f"{storage}: runs that begin with others' weights need a --storage on this machine")
    return folder


def execute(
    runs: Sequence[Run],
    storage: str,
    *,
    jobs: int = 1,
    device: Any = "auto",
    address: str | None = None,
    mlflow: "MlflowConfig | None" = None,
    say: Callable[[str], None] = print,
    listeners: Sequence[Listener] = (),
) -> Outcome:
    """Trains those that are not finished, `jobs` at a time."""
    done = finished(runs, storage)
    names = {run.name for run in runs}
    if done:
        say(f"{len(done)} of {len(names)} runs are finished already")
    # Rows that --set has made alike share a run, and rows that ask one model in several ways.
    left: dict[str, Run] = {}
    for run in runs:
        if run.name not in done:
            left.setdefault(run.name, run)
    return executor.execute(
        [
            Job(
                run.name,
                f"{run.label}, seed {run.recipe.seed}",
                partial(_train, run, storage, device, mlflow, listeners),
                None if run.after in done else run.after,
            )
            for run in left.values()
        ],
        jobs,
        device=device,
        address=address,
        say=say,
    )


def _train(
    run: Run, storage: str, device: Any, mlflow: "MlflowConfig | None", listeners: Sequence[Listener] = ()
) -> str:
    everyone: list[Listener] = [Journal(), *listeners]
    if mlflow is not None:
        everyone.append(replace(mlflow, tags={**mlflow.tags, "row": run.label}).build())
    config = RunConfig(name=run.name, storage=storage, device=device, keep=1, keep_best=0)
    recipe = run.recipe
    if run.after is not None:
        weights = local_folder(storage) / run.after / WEIGHTS
        recipe = replace(recipe, model=replace(recipe.model, weights=str(weights)))
    if train(recipe, config, listeners=everyone).status == "stopped":
        raise KeyboardInterrupt
    return "finished"


@dataclass(frozen=True)
class Expected:
    """Of one run; measured on a few steps and images."""

    step: float  # seconds
    image: float  # seconds, to score one
    other: float  # seconds, to begin and to end

    def seconds(self, recipe: Recipe) -> float:
        return self.other + self.step * recipe.schedule.steps + self.image * scored_images(recipe)


def measure(recipe: Recipe, device: Any, steps: int = 4, images: int = 2) -> Expected:
    """Trains a little of it; KeyboardInterrupt where that is stopped."""
    # Scenes of the streets world can be counted out; another data set is scored as it is, which takes its time.
    streets = [each for each in recipe.data.test if parse_spec(each).name == "streets"]
    changes = [with_option(each, length=str(images)) for each in streets] or recipe.data.test[:1]
    short = replace(
        recipe,
        schedule=replace(recipe.schedule, steps=steps, warmup=0),
        data=replace(recipe.data, test=tuple(changes), validation=()),
    )
    watch = _Watch()
    with tempfile.TemporaryDirectory() as place:
        if recipe.model.trainable:  # which wants weights to begin with
            weights = Path(place) / "random.safetensors"
            save_weights(model(recipe.model), weights)
            short = replace(short, model=replace(short.model, weights=str(weights)))
        began = time.monotonic()
        config = RunConfig(storage=place, device=device, log_every=steps // 2)
        if train(short, config, listeners=[watch]).status == "stopped":
            raise KeyboardInterrupt
    step = recipe.data.batch_size / watch.rate
    image = watch.scoring / max(1, scored_images(short))
    return Expected(step, image, max(0.0, time.monotonic() - began - steps * step - watch.scoring))


class _Watch(Listener):
    rate = 0.0  # images per second of the last report: the first steps warm up
    scoring = 0.0
    _since = 0.0

    def on_step(self, report: StepReport) -> None:
        self.rate, self._since = report.images_per_second, time.monotonic()

    def on_scores(self, report: ScoreReport) -> None:
        self.scoring = time.monotonic() - self._since


def scored_images(recipe: Recipe) -> int:
    specs = [*recipe.data.test, *recipe.data.validation]
    return sum(len(from_spec(spec)) for spec in specs)
