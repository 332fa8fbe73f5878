"""A sweep: trials over a recipe's settings, judged on validation domains alone, cut short at milestones by ASHA.

<storage>/<name>/sweep.json       what is searched; the same name never means another sweep
                 trials.jsonl     every trial: values, scores, status (record.py)
                 trial-000/ …     the trials' runs, each a folder like every run's
                 summary.md, parallel.png, slices.png, winner.yaml      at the end (summary.py)
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from dgseg.data import Dataset, from_spec
from dgseg.data.files import FileDataset
from dgseg.data.streets.domains import TARGETS
from dgseg.evaluation.names import VALIDATION, miou
from dgseg.recipes import to_yaml
from dgseg.runs.launch.command import Command
from dgseg.runs.sweep.record import trials
from dgseg.runs.sweep.search import ExactASHA, StoredSearch
from dgseg.runs.sweep.space import Parameter
from dgseg.runs.sweep.trial import Plan, Trial
from dgseg.training.recipe import Recipe
from dgseg.training.storage import Storage, open_storage

SETTINGS, FOLDER = "sweep.json", "tune"
TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a result without a score says how far the trial is
}
DEPTH = 2  # milestones: at steps / factor² and steps / factor


@dataclass(frozen=True)
class SweepConfig:
    trials: int = 16
    searcher: Literal["tpe", "random"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"
    factor: int = 3  # ASHA: one of so many trials goes on at a milestone
    seed: int = 0  # of the search; the trials' own is the recipe's
    on: str | None = None  # the validation domain that decides; None: the mean of all

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("factor", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least {least}")


def objective(recipe: Recipe, on: str | None) -> str:
    """What a trial reports the objective as. Nothing may be selected on what is scored in the end."""
    validation, test = ([from_spec(spec) for spec in specs] for specs in (recipe.data.validation, recipe.data.test))
    domains = [each.domain for each in validation]
    targets = {*TARGETS, *(each.domain for each in test)}
    scored = {path for each in test for path in _images(each)}
    renamed = {each.domain for each in validation if not scored.isdisjoint(_images(each))}
    for name in [*domains, *([on] if on else [])]:
        if name in renamed or any(_overlap(name, target) for target in targets):
            raise ValueError(
                f"{name} is a target: nothing may be selected on it, or its score would mean nothing. Select on a "
                f"domain that is no target, as dusk of the streets world: --data.validation streets=dusk@val,…"
            )
    if not domains:
        raise ValueError(
            f"{recipe.name} has no data.validation, and trials are judged by nothing else: name data that is neither "
            "trained on nor a target, with --data.validation"
        )
    if on is not None and on not in domains:
        raise ValueError(f"--on {on}: data.validation has {', '.join(domains)}")
    return miou(f"{VALIDATION}/{on}" if on else VALIDATION)


def _overlap(one: str, other: str) -> bool:
    """Conditions are parts of a domain: acdc/fog of acdc."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _images(dataset: Dataset) -> set[Path]:
    """Its files, which are the same ones whatever `domain=` calls them."""
    if not isinstance(dataset, FileDataset):
        return set()
    return {dataset.image_path(place).resolve() for place in range(len(dataset))}


def milestones(steps: int, factor: int) -> list[int]:
    """All are multiples of the first, and none is the end: what has come that far also writes its weights."""
    first: int = -(-steps // factor**DEPTH)
    return [each for each in (first * factor**power for power in range(DEPTH)) if each < steps]


def of_trials(recipe: Recipe, factor: int) -> Recipe:
    """As every trial trains it: scored on validation alone, at every milestone at the latest."""
    every = recipe.train.evaluate_every or next(iter(milestones(recipe.schedule.steps, factor)), 1)
    return replace(
        recipe,
        data=replace(recipe.data, test=()),
        train=replace(recipe.train, evaluate_every=every),
    )


class Sweep:
    """command.run.name is the sweep's; its recipe the one whose values are searched around."""

    def __init__(self, command: Command, config: SweepConfig, parameters: Sequence[Parameter]) -> None:
        self.metric = objective(command.recipe, config.on)
        self.command, self.config, self.parameters = command, config, parameters
        self.recipe = of_trials(command.recipe, config.factor)
        self.name = command.run.name or f"sweep-{command.recipe.name}"
        self.folder: Storage = open_storage(command.run.storage).folder(self.name)
        self.folder.check_writable()

    @contextmanager
    def exclusive(self) -> Iterator[dict[str, Any]]:
        """Gives the settings that the folder keeps, and keeps other processes out of it."""
        with self.folder.lock():
            yield self._claim()

    @property
    def steps(self) -> int:
        return self.recipe.schedule.steps

    def _claim(self) -> dict[str, Any]:
        """The folder is this sweep's from now on, or since it was begun."""
        wanted = {
            "recipe": to_yaml(self.command.recipe),
            "search": {each.name: str(each.distribution) for each in self.parameters},
            "metric": self.metric,
            **{name: getattr(self.config, name) for name in ("searcher", "scheduler", "factor", "seed")},
        }
        kept: dict[str, Any] = {}
        if self.folder.exists(SETTINGS):
            kept = json.loads(self.folder.read(SETTINGS))
            changed = [name for name, value in wanted.items() if kept.get(name) != value]
            if changed:
                raise ValueError(
                    f"the sweep {self.name!r} in {self.command.run.storage} was begun with another "
                    f"{' and another '.join(changed)}: give this one another --name, or the settings as they were to "
                    f"resume that one ({self.folder.where(SETTINGS)}); only --trials may grow"
                )
        kept |= wanted
        self.keep(kept)
        return kept

    def keep(self, settings: dict[str, Any]) -> None:
        self.folder.write(SETTINGS, (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode())

    def run(
        self, at_once: int | None, study: optuna.Study, callbacks: Sequence[tune.Callback], mlflow: Any = None
    ) -> None:
        """Until every trial has ended, on the cluster that this process has joined."""
        for trial in trials(study):  # a worker of a sweep that was just killed may still be breathing
            if trial.status == "running":
                with self.folder.folder(trial.name).lock(wait=60):
                    pass
        run = replace(self.command.run, storage=self.folder.url, keep=1, keep_best=0)
        plan = Plan(replace(self.command, recipe=self.recipe, run=run), mlflow)
        config = self.config
        self.search = StoredSearch(study, self.parameters, self.metric, config.searcher, config.seed, config.trials)
        # Tune's own tables, files and working folders: the sweep has a table and a record of its own.
        os.environ.update(TUNE)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(Trial, plan=plan), plan.resources()),
            tune_config=tune.TuneConfig(
                search_alg=self.search,
                scheduler=self._scheduler(study),
                num_samples=config.trials - ended(study),
                max_concurrent_trials=at_once or plan.at_once(),
            ),
            run_config=tune.RunConfig(
                name=self.name,
                storage_path=self.folder.where(FOLDER),
                callbacks=list(callbacks),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs keep their own
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            for name in self.folder.names():
                if name == FOLDER or name.startswith(".launched-"):  # left by a trial that was killed
                    self.folder.delete(name)

    def _scheduler(self, study: optuna.Study) -> TrialScheduler:
        steps = milestones(self.steps, self.config.factor)
        if self.config.scheduler == "none" or not steps:
            return FIFOScheduler()
        return ExactASHA(study, self.metric, steps, self.config.factor, self.steps)


def ended(study: optuna.Study) -> int:
    return sum(trial.status != "running" for trial in trials(study))
