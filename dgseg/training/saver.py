"""Checkpoints of a run: whose folder it is, from where it resumes, and what is saved.

Every method is called by all ranks; rank 0 writes.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgseg.data.names import without_secrets
from dgseg.training.checkpoint import CheckpointError, Checkpoints, Loaded
from dgseg.training.listener import CheckpointReport, Listener
from dgseg.training.lock import Busy
from dgseg.training.loop import Loop, NonFiniteLoss
from dgseg.training.optimizers import state_tensors
from dgseg.training.recipe import Recipe
from dgseg.training.run import RunConfig
from dgseg.training.storage import Lock, Storage
from dgseg.training.strategies import Strategy
from dgseg.training.world import World
from dgseg.training.yaml import differences, from_yaml, to_yaml

RECIPE, WEIGHTS = "recipe.yaml", "weights.safetensors"  # in the run's folder; the weights of a finished run


class Saver:
    def __init__(
        self,
        recipe: Recipe,
        config: RunConfig,
        folder: Storage,
        world: World,
        lock: Lock | None,  # rank 0 has it for all
        listener: Listener,
    ) -> None:
        self.recipe, self.config, self.folder = recipe, config, folder
        self.world, self.lock, self.listener = world, lock, listener
        self.checkpoints = Checkpoints(folder, keep=config.keep, keep_best=config.keep_best)
        self._saved_at: int | None = None

    def claim(self, name: str) -> None:
        """The folder belongs to this recipe: from now on, or since an earlier start."""

        def claim() -> None:
            # A run that never came to a checkpoint had a wrong flag: it keeps no name.
            begun = self.checkpoints.begun() or self.folder.exists(WEIGHTS)
            if not (begun and self.folder.exists(RECIPE)):
                self.folder.write(RECIPE, to_yaml(self.recipe).encode())
                return
            if changed := self._changes(self.folder.read(RECIPE).decode()):
                listed = "; ".join(f"{key}: {old} there, {new} here" for key, (old, new) in list(changed.items())[:8])
                raise ValueError(
                    f"the run {name!r} in {without_secrets(self.config.storage)} belongs to another recipe ({listed}). "
                    "Give this one another name with --name, or the recipe as it was to resume that one"
                )

        self.world.from_rank0(claim)

    def resume(self, loop: Loop) -> None:
        """From the newest checkpoint that is whole, if there is one; every rank reads it."""
        newest: Loaded | None = None

        def load() -> int | None:
            nonlocal newest
            newest = self.checkpoints.load()
            return newest.step if newest else None

        step = self.world.from_rank0(load)
        if step is None:
            return
        loaded = newest or self.checkpoints.load_step(step)
        if self._changes(loaded.state["recipe"]):
            raise ValueError(f"{self.folder.url}: the checkpoint of step {step} is another recipe's")
        loop.strategy.load_state(loaded.state)
        loop.strategy.load_files(Path(loaded.path), loaded.state["world_size"])
        loop.loader.load_state_dict(loaded.state["loader"])
        self.listener.load_state_dict(loaded.state["listeners"])
        loop.step = self._saved_at = step

    def save(self, loop: Loop, score: float | None) -> None:
        """Unless this step is saved already."""
        if self._saved_at == loop.step:
            return
        step, strategy = loop.step, loop.strategy
        state = strategy.state()
        self.world.agree(None if _finite(state["model"]) else _not_finite(step))
        corrupt = {path: reason for each in self.world.gather(loop.loader.corrupt) for path, reason in each.items()}
        seconds, failure = 0.0, None
        try:
            self.world.from_rank0(self._check_lock)
            if strategy.own_files:
                strategy.save_files(self.world.from_rank0(lambda: self.checkpoints.begin(step)))
            if self.world.first:
                state |= {
                    "loader": loop.loader.state_dict() | {"corrupt": corrupt},
                    "listeners": self.listener.state_dict(),
                    "recipe": to_yaml(self.recipe),
                    "world_size": self.world.size,
                }
                save = self.checkpoints.commit if strategy.own_files else partial(self.checkpoints.save, step)
                seconds = save(state, score=score)
        except (CheckpointError, Busy) as error:
            self.checkpoints.abandon()
            failure = CheckpointError(str(error))
        # Of a disk that is full the others learn at once, instead of waiting for rank 0.
        self.world.agree(failure)
        self._saved_at = step
        if self.world.first:
            self.listener.on_checkpoint(CheckpointReport(step, self.checkpoints.storage.url, score, seconds))

    def reserve(self, strategy: Strategy) -> None:
        """Memory for the first copy of the state, while training begins."""
        if self.world.first and self.world.device.type == "cpu" and not strategy.own_files:
            moments = state_tensors(self.recipe.optimizer)
            copies = 1 + moments + (self.recipe.train.ema is not None)
            self.checkpoints.reserve(copies * sum(each.nbytes for each in strategy.learner.parameters()))

    def wait(self) -> None:
        """Until the last checkpoint is written."""
        self.checkpoints.wait()

    def give_up(self) -> None:
        """After another error, which is the one to report."""
        with suppress(CheckpointError):
            self.checkpoints.wait()

    def _changes(self, saved: str) -> dict[str, tuple[Any, Any]]:
        """What this recipe has otherwise than a saved one. Recipes may be renamed: what they train stays."""
        # Both as they are read back: a field written as 2 is 2.0 to a recipe that comes from a file.
        changes = differences(from_yaml(saved), from_yaml(to_yaml(self.recipe)))
        changes.pop("name", None)
        return changes

    def _check_lock(self) -> None:
        if self.lock is not None:
            self.lock.check()


def _finite(weights: Mapping[str, Tensor]) -> bool:
    # The largest magnitude of all, NaN if any is: the host waits for the device once, not once a tensor.
    values = [value for value in weights.values() if value.is_floating_point() and value.numel()]
    return math.isfinite(torch.nn.utils.get_total_norm(values, norm_type=math.inf)) if values else True


def _not_finite(step: int) -> NonFiniteLoss:
    return NonFiniteLoss(
        f"step {step}: the weights are NaN or infinite, though the last loss was not; they are not saved. A lower "
        "--optimizer.lr, a longer --schedule.warmup, --train.clip or --train.precision float32 usually helps"
    )
