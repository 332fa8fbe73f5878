"""One process that holds everything, and what the loop asks of every strategy.

State goes in and out as whole tensors, whatever the strategy cuts them into: a run that was saved under one strategy
and number of workers resumes under another (DeepSpeed excepted).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.objectives.base import StepContext
from dgseg.training import optimizers
from dgseg.training.ema import AveragedWeights
from dgseg.training.learner import Learner
from dgseg.training.recipe import Recipe
from dgseg.training.world import World

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Strategy:
    own_files = False  # whether save_files must be called for a checkpoint to be whole

    def __init__(self, learner: Learner, recipe: Recipe, world: World) -> None:
        self.learner = learner
        self.recipe = recipe
        self.world = world
        self.wrapped: nn.Module = self.wrap()
        self.optimizers = optimizers.build(learner, recipe.optimizer)
        self.averaged = AveragedWeights(learner.model, recipe.train.ema) if recipe.train.ema is not None else None
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.train.precision == "fp16")

    def wrap(self) -> nn.Module:
        return self.learner

    def terms(self, batch: Batch, context: StepContext, last: bool) -> dict[str, Tensor]:
        """Of one micro-batch; `last` of its step: then gradients meet."""
        with self.autocast():
            terms: dict[str, Tensor] = self.wrapped(batch, context)
        return terms

    def backward(self, loss: Tensor, last: bool) -> None:
        self.scaler.scale(loss).backward()

    def step(self, rate_step: int, measure: bool) -> tuple[float, Tensor | None]:
        """One step of every optimiser; the rate, and the gradient's norm where it is measured."""
        rate = self.optimizers.set_rates(self.recipe.schedule, rate_step)
        norm = None
        clip = self.recipe.train.clip
        if clip is not None or measure:
            for optimizer in self.optimizers.all:
                self.scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self._trained(), float("inf") if clip is None else clip)
        for optimizer in self.optimizers.all:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.optimizers.zero_grad()
        if self.averaged is not None:
            self.averaged.update()
        return rate, norm

    def autocast(self) -> AbstractContextManager[None]:
        dtype = AUTOCAST.get(self.recipe.train.precision)
        if dtype is None:
            return nullcontext()
        return torch.autocast(self.world.device.type, dtype)

    def state(self) -> dict[str, Any]:
        """Everything that training has changed, as whole tensors. All ranks call it; the first one's is complete."""
        found = {
            "model": gather_full(self.learner.model.state_dict()),
            "objectives": gather_full(self.learner.objectives.state_dict()),
            "optimizers": {name: gather_full(each.state_dict()) for name, each in self.optimizers.named().items()},
            "scaler": self.scaler.state_dict(),
        }
        if self.averaged is not None:
            found["ema"] = gather_full(self.averaged.weights)
            found["ema_steps"] = self.averaged.steps
        return found

    def load_state(self, state: dict[str, Any]) -> None:
        _refill(self.learner.model, state["model"])
        _refill(self.learner.objectives, state["objectives"])
        for name, optimizer in self.optimizers.named().items():
            optimizer.load_state_dict(self.placed(optimizer, state["optimizers"][name]))
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            with torch.no_grad():
                for key, value in self.averaged.weights.items():
                    value.copy_(shard_like(state["ema"][key], value))
            self.averaged.steps = state["ema_steps"]

    def placed(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """The optimiser's whole state, cut as its parameters are."""
        return state

    def save_files(self, folder: Path) -> None:
        """Files that the strategy keeps in a checkpoint beside the state; all ranks call it."""
        return

    def load_files(self, folder: Path, world_size: int) -> None:
        """What save_files wrote there, with this number of workers."""
        return

    @contextmanager
    def scored_model(self) -> Iterator[SegmentationModel]:
        """A whole model on every rank, with the weights that count."""
        with self.averaged.in_place() if self.averaged is not None else nullcontext():
            yield self.learner.model

    def _trained(self) -> list[nn.Parameter]:
        return [p for optimizer in self.optimizers.all for group in optimizer.param_groups for p in group["params"]]


def gather_full(value: Any) -> Any:
    """Sharded tensors in a tree put together; all ranks call it with the same tree."""
    if isinstance(value, Tensor):
        gather: Callable[[], Tensor] | None = getattr(value, "full_tensor", None)
        return value.detach() if gather is None else gather().detach()
    if isinstance(value, dict):
        return {key: gather_full(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(gather_full(each) for each in value)
    return value


def shard_like(value: Tensor, example: Tensor) -> Tensor:
    """A whole tensor on the example's device, cut as the example is."""
    value = value.to(example.device)
    mesh = getattr(example, "device_mesh", None)
    if mesh is None:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, mesh, example.placements, src_data_rank=None)  # type: ignore[attr-defined]


def _refill(module: nn.Module, state: dict[str, Tensor]) -> None:
    own = module.state_dict()
    if own.keys() != state.keys():
        differing = sorted(own.keys() ^ state.keys())
        raise ValueError(
            f"the checkpoint does not fit {type(module).__name__}: {len(differing)} names are on one side alone, "
            f"such as {differing[0]}"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(shard_like(state[name], value))
