"""A recipe, trained: what the run's folder holds, how it goes on after a stop, what happens at its end.

<storage>/<name>/recipe.yaml        what is trained; the same name never means another recipe
                 checkpoints/       see checkpoint.py
                 metrics.jsonl      every report, one JSON object a line
                 weights.safetensors, result.json, panel.png      when finished
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from dgseg.data import Dataset
from dgseg.data.names import without_secrets
from dgseg.machine import machine
from dgseg.models import save_weights
from dgseg.ops import across_ranks
from dgseg.training import assemble, strategies
from dgseg.training.checkpoint import CheckpointError, Checkpoints, Loaded
from dgseg.training.identity import dataset_identity
from dgseg.training.interrupt import Interrupt
from dgseg.training.listener import CheckpointReport, Listener, RunEnd, RunStart, ScoreReport
from dgseg.training.lock import Busy
from dgseg.training.loop import Loop, NonFiniteLoss
from dgseg.training.memory import keep_freed_memory
from dgseg.training.recipe import AdamWConfig, Recipe
from dgseg.training.run import RunConfig
from dgseg.training.scoring import Scoring
from dgseg.training.storage import Lock, Storage, open_storage
from dgseg.training.strategies import Strategy
from dgseg.training.world import World, join
from dgseg.training.yaml import differences, from_yaml, to_yaml

WEIGHTS = "weights.safetensors"  # of a finished run, in its folder

T = TypeVar("T")


@dataclass(frozen=True)
class RunResult:
    status: str  # "finished", or "stopped": the same name goes on
    step: int
    folder: str  # of the run in the storage
    weights: str | None  # the final weights, when finished
    scores: ScoreReport | None  # on data.test, when finished


def train(
    recipe: Recipe, run: RunConfig, *, listeners: Sequence[Listener] = (), world: World | None = None
) -> RunResult:
    """In this process, as one of `world`; None: whatever torchrun's variables or an existing process group say."""
    world = world or join(run.device, run.timeout)
    name = run.name or recipe.name
    folder = open_storage(run.storage).folder(name)
    told = [each for each in listeners if world.first or each.every_rank]
    with _alone(world, folder) as lock, Interrupt().listening() as interrupt:
        session = None
        try:
            session = Session(recipe, run, name, folder, world, told, interrupt, lock)
            return session.run()
        except BaseException as error:
            step = session.loop.step if session is not None else 0
            if session is not None:
                with suppress(CheckpointError):  # the first error is the one to tell
                    session.checkpoints.wait()
            for listener in told:
                listener.on_end(RunEnd("failed", step, reason=f"{type(error).__name__}: {error}"))
            raise


class Session:
    """One process's part of one stretch of a run, from start or resumption to its end."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunConfig,
        name: str,
        folder: Storage,
        world: World,
        listeners: Sequence[Listener],
        interrupt: Interrupt,
        lock: Lock,
    ) -> None:
        self.recipe, self.config, self.name, self.folder = recipe, run, name, folder
        self.world, self.listeners, self.interrupt, self.lock = world, listeners, interrupt, lock
        assemble.check(recipe, world.size)
        self.checkpoints = Checkpoints(folder, keep=run.keep, keep_best=run.keep_best)
        self._claim()
        if world.device.type == "cpu":
            keep_freed_memory()
            # What a compiler cuts into graphs may differ between the ranks; all must take the same way.
            if world.group is not None and recipe.train.compile:
                across_ranks.share_no_memory(world.group)
            elif world.group is not None:
                across_ranks.share_memory(world.group, run.timeout)
        if recipe.train.deterministic:
            torch.use_deterministic_algorithms(True)
        sources = assemble.datasets(recipe)
        self.loader = assemble.loader(recipe, sources, assemble.sampler(recipe, sources), world)
        learner = assemble.learner(recipe, sources, world)
        self.strategy: Strategy = strategies.build(learner, recipe, run, world)
        if recipe.train.compile:
            learner.model.compile()
        self.loop = Loop(recipe, world, self.strategy, self.loader, listeners, interrupt, log_every=run.log_every)
        if world.first and world.device.type == "cpu" and not self.strategy.own_files:
            moments = 2 if isinstance(recipe.optimizer, AdamWConfig) else 1
            copies = 1 + moments + (recipe.train.ema is not None)
            self.checkpoints.reserve(copies * sum(each.nbytes for each in learner.parameters()))
        self.scoring = Scoring(recipe, world)
        self.datasets = self._identities(sources)
        self._saved_at: int | None = None

    def run(self) -> RunResult:
        self._resume()
        start = RunStart(
            recipe=self.recipe,
            run=self.config,
            name=self.name,
            folder=self.folder.url,
            step=self.loop.step,
            world_size=self.world.size,
            device=_device_name(self.world.device),
            datasets=self.datasets,
        )
        for listener in self.listeners:
            listener.on_start(start)
        steps = self.recipe.schedule.steps
        end = steps if self.config.stop_after is None else min(steps, self.config.stop_after)
        while self.loop.step < end and not self.loop.stopping:
            self.loop.run(lambda step: step >= end or self._due(step))
            self._between()
        self.checkpoints.wait()
        if self.loop.step < steps:
            return self._ended(RunResult("stopped", self.loop.step, self.folder.url, None, None))
        return self._finish()

    def _due(self, step: int) -> bool:
        train = self.recipe.train
        scoring = train.evaluate_every is not None and step % train.evaluate_every == 0
        return scoring or step % train.save_every == 0

    def _between(self) -> None:
        """Scores and checkpoints after the step that the loop came to."""
        self.loop.settle()
        step, train = self.loop.step, self.recipe.train
        finished = step >= self.recipe.schedule.steps
        score = None
        scoring = finished or (train.evaluate_every is not None and step % train.evaluate_every == 0)
        if scoring and self.recipe.data.validation:
            report = self.scoring.validation(self.strategy, step)
            score = report.averages["validation"]
            self._tell_scores(report)
        self._save(score)

    def _finish(self) -> RunResult:
        with self.strategy.scored_model() as model, tempfile.TemporaryDirectory() as place:
            weights = Path(place) / WEIGHTS
            if self.world.first:
                with self._room():
                    save_weights(model, weights)
                    self.folder.upload(weights, WEIGHTS)
            report = None
            if self.recipe.data.test:
                report = self.scoring.test(model, self.loop.step, Path(place))
                self._tell_scores(report)
            if self.world.first:
                with self._room():
                    for name, picture in (report.pictures if report else {}).items():
                        self.folder.upload(picture, f"{name}.png")
                    self.folder.write("result.json", json.dumps(self._summary(report), indent=1).encode())
            result = RunResult("finished", self.loop.step, self.folder.url, self.folder.where(WEIGHTS), report)
            return self._ended(result, weights)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """A full disk at the end costs no step: the last checkpoint is of the last one."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"all {self.loop.step} steps are trained and saved, but what belongs beside them could not be written "
                f"to {self.folder.url} ({error.strerror or error}); make room, and the same command goes on from there"
            ) from error

    def _ended(self, result: RunResult, weights: Path | None = None) -> RunResult:
        reason = ""
        if result.status == "stopped":
            reason = self.interrupt.requested or "asked to"
        for listener in self.listeners:
            listener.on_end(RunEnd(result.status, result.step, weights, reason))
        self.world.barrier()
        return result

    def _save(self, score: float | None) -> None:
        if self._saved_at == self.loop.step:
            return
        step, trouble, seconds = self.loop.step, "", 0.0
        state = self.strategy.state()
        if not _finite(state["model"]):
            trouble = (
                f"step {step}: the weights are not finite, though the last loss was; they are not saved. A lower "
                "learning rate, a longer warm-up, train.clip or train.precision float32 are what usually helps"
            )
        _agree(self.world, trouble, NonFiniteLoss)
        corrupt = self._corrupt_files()
        try:
            if self.world.first:
                self.lock.check()
            if self.strategy.own_files:
                self.strategy.save_files(self._common(lambda: self.checkpoints.begin(step)))
            if self.world.first:
                state |= {
                    "loader": self.loader.state_dict() | {"corrupt": corrupt},
                    "listeners": {type(each).__name__: each.state_dict() for each in self.listeners},
                    "recipe": to_yaml(self.recipe),
                    "world_size": self.world.size,
                }
                save = self.checkpoints.commit if self.strategy.own_files else partial(self.checkpoints.save, step)
                seconds = save(state, score=score)
        except (CheckpointError, Busy) as error:
            self.checkpoints.abandon()
            trouble = str(error)
        # Of a disk that is full the others hear at once, instead of waiting for rank 0.
        _agree(self.world, trouble, CheckpointError)
        self._saved_at = step
        if self.world.first:
            told = CheckpointReport(step, self.checkpoints.storage.url, score, seconds)
            for listener in self.listeners:
                listener.on_checkpoint(told)

    def _resume(self) -> None:
        """From the newest checkpoint that is whole; every rank reads it."""
        newest: list[Loaded | None] = [None]

        def load() -> int | None:
            newest[0] = self.checkpoints.load()
            return newest[0].step if newest[0] else None

        step = self._common(load)
        if step is None:
            return
        loaded = newest[0] or self.checkpoints.load_step(step)
        # Both as they are read back: a field written as 2 is 2.0 to a recipe that comes from a file.
        was, is_ = (to_yaml(from_yaml(text)) for text in (loaded.state["recipe"], to_yaml(self.recipe)))
        if was != is_:
            raise ValueError(f"{self.folder.url}: the checkpoint of step {step} is another recipe's")
        self.strategy.load_state(loaded.state)
        self.strategy.load_files(Path(loaded.path), loaded.state["world_size"])
        self.loader.load_state_dict(loaded.state["loader"])
        for listener in self.listeners:
            found = loaded.state["listeners"].get(type(listener).__name__)
            if found:
                listener.load_state_dict(found)
        self.loop.step = self._saved_at = step

    def _common(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank; or the error that it meets."""
        made: list[Any] = [None, ""]
        if self.world.first:
            try:
                made[0] = make()
            except (ValueError, CheckpointError) as error:
                made[1] = str(error)
                if self.world.group is None:
                    raise
        if self.world.group is not None:
            dist.broadcast_object_list(made, group=self.world.group)
            if made[1]:
                raise ValueError(made[1])
        return cast(T, made[0])

    def _claim(self) -> None:
        """The folder is this recipe's: from now on, or since an earlier stretch."""
        trouble = ""
        if self.world.first:
            # What came to no checkpoint was a flag to be mended, or a rate too high: it keeps no name.
            begun = self.checkpoints.begun() or self.folder.exists(WEIGHTS)
            if not (begun and self.folder.exists("recipe.yaml")):
                self.folder.write("recipe.yaml", to_yaml(self.recipe).encode())
            else:
                changed = differences(from_yaml(self.folder.read("recipe.yaml").decode()), self.recipe)
                changed.pop("name", None)  # recipes may be renamed; what they train stays
                if changed:
                    told = "; ".join(f"{key}: {old} there, {new} here" for key, (old, new) in list(changed.items())[:8])
                    trouble = (
                        f"the run {self.name!r} in {without_secrets(self.config.storage)} belongs to another recipe "
                        f"({told}). Give this one another name with --name, or the recipe as it was to resume that one"
                    )
        _agree(self.world, trouble)

    def _tell_scores(self, report: ScoreReport) -> None:
        for listener in self.listeners:
            listener.on_scores(report)

    def _corrupt_files(self) -> dict[str, str]:
        """Of all ranks: each keeps count of what it reads itself."""
        if self.world.group is None:
            return dict(self.loader.corrupt)
        found: list[dict[str, str]] = [{} for _ in range(self.world.size)]
        dist.all_gather_object(found, dict(self.loader.corrupt), group=self.world.group)
        return {path: reason for each in found for path, reason in each.items()}

    def _identities(self, sources: Sequence[Dataset]) -> dict[str, dict[str, Any]]:
        data = self.recipe.data
        found = {
            f"source{place}": dataset_identity(spec, dataset)
            for place, (spec, dataset) in enumerate(zip(data.sources, sources, strict=True))
        }
        if self.loader.target is not None and data.target is not None:
            found["target"] = dataset_identity(data.target.source, self.loader.target.dataset)
        for role, specs in (("validation", data.validation), ("test", data.test)):
            for place, (spec, dataset) in enumerate(zip(specs, self.scoring.datasets[role], strict=True)):
                found[f"{role}{place}"] = dataset_identity(spec, dataset)
        return found

    def _summary(self, report: ScoreReport | None) -> dict[str, Any]:
        summary = {"name": self.name, "recipe": self.recipe.name, "steps": self.loop.step, "seed": self.recipe.seed}
        if report is not None:
            summary["scores"] = report.named
        return summary | {
            "run": asdict(self.config) | {"storage": without_secrets(self.config.storage)},
            "world_size": self.world.size,
            "datasets": self.datasets,
            **machine(self.world.device),
        }


@contextmanager
def _alone(world: World, folder: Storage) -> Iterator[Lock]:
    """One run of a name at a time; what rank 0 cannot have, nobody has."""
    if world.first:
        try:
            folder.check_writable()
            holding = folder.lock(wait=5)  # a worker that is being replaced may still be dying
        except ValueError as error:
            _agree(world, str(error))
            raise
        with holding as lock:
            _agree(world, "")
            yield lock
    else:
        _agree(world, "")
        yield _Unlocked()


class _Unlocked:
    """What the other ranks hold: rank 0 has the lock for all."""

    def check(self) -> None:
        return

    def release(self) -> None:
        return


def _agree(world: World, trouble: str, kind: type[Exception] = ValueError) -> None:
    """Raises on every rank what any of them is troubled by, instead of leaving the others to wait for it."""
    troubles = [trouble]
    if world.group is not None:
        troubles = [""] * world.size
        dist.all_gather_object(troubles, trouble, group=world.group)
    for found in troubles:
        if found:
            raise kind(found)


def _finite(weights: Mapping[str, torch.Tensor]) -> bool:
    # The largest magnitude of all, NaN if any is: the host waits for the device once, not once a tensor.
    values = [value for value in weights.values() if value.is_floating_point() and value.numel()]
    return math.isfinite(torch.nn.utils.get_total_norm(values, norm_type=math.inf)) if values else True


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
