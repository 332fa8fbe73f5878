"""A study's runs: each by a name of its own, none of them twice."""

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgseg.data import from_spec
from dgseg.data.datasets import parse_spec
from dgseg.models import save_weights
from dgseg.runs.study.grids import Grid, with_option
from dgseg.runs.study.processes import asked, processes
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


@dataclass
class Outcome:
    failed: dict[str, str] = field(default_factory=dict)  # name of a run -> why
    stopped: bool = False  # somebody asked for it; the same command goes on

    @property
    def whole(self) -> bool:
        return not self.failed and not self.stopped


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
    workers: int = 1,
    device: Any = "auto",
    tracked: "MlflowConfig | None" = None,
    say: Callable[[str], None] = print,
    listeners: Sequence[Listener] = (),
) -> Outcome:
    """Those that are not finished: one after another in this process, or `workers` at once in processes of their own.
    A run that fails is told of and the others go on."""
    if workers < 1:
        raise ValueError(f"--workers is {workers}; it must be at least 1")
    done = finished(runs, storage)
    # Rows that --set has made alike share a run, and rows that ask one model in several ways.
    first: dict[str, Run] = {}
    for run in runs:
        if run.name not in done:
            first.setdefault(run.name, run)
    left = list(first.values())
    if done:
        say(f"{len(done)} of {len({run.name for run in runs})} runs are finished already")
    outcome = Outcome()
    heard = _Heard(outcome, len(left), say)
    if workers == 1:
        for run in left:
            if run.after in outcome.failed:
                heard(run, f"{run.after}, which it begins with, failed")
                continue
            began = time.monotonic()
            try:
                status = _train(run, storage, device, tracked, listeners)
            except Exception as error:
                heard(run, f"{type(error).__name__}: {error}", time.monotonic() - began)
                continue
            heard(run, status, time.monotonic() - began)
            if outcome.stopped:
                break
    elif left:
        _in_processes(left, storage, workers, device, tracked, heard)
    return outcome


@dataclass
class _Heard:
    """What became of a run, told and kept."""

    outcome: Outcome
    total: int
    say: Callable[[str], None]
    ended: int = 0
    mentioned: bool = False

    def stop(self) -> None:
        """From a signal's handler, which must not print."""
        self.outcome.stopped = True

    def mention_stop(self) -> None:
        if self.outcome.stopped and not self.mentioned:
            self.mentioned = True
            self.say("stopping: the runs save first; once more, and they are not waited for")

    def __call__(self, run: Run, status: str, seconds: float | None = None) -> None:
        self.ended += 1
        if status == "stopped":
            self.outcome.stopped = True
        elif status != "finished":
            self.outcome.failed[run.name] = status
        took = "" if seconds is None else f", {seconds:.0f} s"
        self.say(f"{self.ended}/{self.total}  {run.label}, seed {run.recipe.seed}: {status}{took}")


def _in_processes(
    left: Sequence[Run], storage: str, workers: int, device: Any, tracked: "MlflowConfig | None", heard: _Heard
) -> None:
    waiting = list(left)
    whole = False
    while not whole:  # a process that is killed takes its pool with it
        whole = True
        with processes(workers, heard.stop) as pool:
            going: dict[Future[str], Run] = {}
            while True:
                # A few at a time: after a stop no more are begun.
                while whole and len(going) < workers and not heard.outcome.stopped:
                    open_ones = {run.name for run in (*waiting, *going.values())}
                    run = next((run for run in waiting if run.after not in open_ones), None)
                    if run is None:
                        break
                    waiting.remove(run)
                    if run.after in heard.outcome.failed:
                        heard(run, f"{run.after}, which it begins with, failed")
                        continue
                    try:
                        going[pool.submit(asked, _train, run, storage, device, tracked)] = run
                    except BrokenProcessPool:
                        waiting.insert(0, run)
                        whole = False
                if not going:
                    break
                over = wait(going, timeout=1.0, return_when=FIRST_COMPLETED).done
                heard.mention_stop()
                for future in over:
                    error = future.exception()
                    run = going.pop(future)
                    if isinstance(error, BrokenProcessPool):
                        whole = False
                        heard(run, "its process was killed, or another beside it, as one is where memory runs out")
                    elif isinstance(error, KeyboardInterrupt):
                        heard(run, "stopped")
                    else:
                        heard(run, future.result() if error is None else f"{type(error).__name__}: {error}")


def _train(
    run: Run, storage: str, device: Any, tracked: "MlflowConfig | None", listeners: Sequence[Listener] = ()
) -> str:
    told: list[Listener] = [Journal(), *listeners]
    if tracked is not None:
        told.append(replace(tracked, tags={**tracked.tags, "row": run.label}).build())
    config = RunConfig(name=run.name, storage=storage, device=device, keep=1, keep_best=0)
    recipe = run.recipe
    if run.after is not None:
        weights = local_folder(storage) / run.after / WEIGHTS
        recipe = replace(recipe, model=replace(recipe.model, weights=str(weights)))
    return train(recipe, config, listeners=told).status


@dataclass(frozen=True)
class Expected:
    """Of one run; measured on a few steps and images."""

    step: float  # seconds
    image: float  # seconds, to score one
    other: float  # seconds, to begin and to end

    def seconds(self, recipe: Recipe) -> float:
        return self.other + self.step * recipe.schedule.steps + self.image * scored_images(recipe)


def measure(recipe: Recipe, device: Any, steps: int = 8, images: int = 4) -> Expected:
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
        train(short, RunConfig(storage=place, device=device, log_every=steps // 2), listeners=[watch])
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
