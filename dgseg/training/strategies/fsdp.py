"""FSDP2: parameters, gradients and optimiser state are cut among the workers; each stage of the model is put together
when its turn comes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.build import build
from dgseg.objectives.base import StepContext
from dgseg.training.learner import Learner
from dgseg.training.recipe import Recipe
from dgseg.training.strategies.base import Strategy, gather_full, shard_like
from dgseg.training.world import World

SMALLEST = 100_000  # parameters: a smaller part travels with what surrounds it


class FullySharded(Strategy):
    def __init__(self, learner: Learner, recipe: Recipe, world: World) -> None:
        if recipe.train.precision == "fp16":
            raise ValueError(
                "fp16's loss scaling does not see all workers' shards: use precision bf16 with fsdp, or ddp"
            )
        super().__init__(learner, recipe, world)
        self._scored: SegmentationModel | None = None

    def wrap(self) -> nn.Module:
        # FSDP2 cuts contiguous parameters alone; the convolutions go on in channels last if their input is.
        self.learner.to(memory_format=torch.contiguous_format)
        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        for block in _blocks(self.learner.model, _called(self.recipe)):
            fully_shard(block, mesh=mesh)
        # The rest, objectives included, stays together between forward and backward.
        fully_shard(self.learner, mesh=mesh, reshard_after_forward=False)
        return self.learner

    def terms(self, batch: Batch, context: StepContext, last: bool) -> dict[str, Tensor]:
        assert isinstance(self.wrapped, FSDPModule)
        self.wrapped.set_requires_gradient_sync(last)
        return super().terms(batch, context, last)

    def step(self, rate_step: int, measure: bool) -> tuple[float, Tensor | None]:
        rate, norm = super().step(rate_step, measure)
        return rate, None if norm is None else gather_full(norm)

    def placed(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def cut(parameter: Tensor, value: Any) -> Any:
            return (
                shard_like(value, parameter) if isinstance(value, Tensor) and value.shape == parameter.shape else value
            )

        states = {
            number: {key: cut(parameters[number], value) for key, value in each.items()}
            for number, each in state["state"].items()
        }
        return {**state, "state": states}

    @contextmanager
    def scored_model(self) -> Iterator[SegmentationModel]:
        """A whole copy: ranks score different numbers of images, and a sharded model needs them all at every step."""
        model = self.learner.model
        if self._scored is None:
            config = self.recipe.model
            with torch.device("meta"):
                copy = build(config.name, config.num_classes, **config.options)
            self._scored = copy.to_empty(device=self.world.device).to(next(model.parameters()).dtype)
        state = {
            **gather_full(model.state_dict()),
            **(gather_full(self.averaged.weights) if self.averaged is not None else {}),
        }
        self._scored.load_state_dict(state)
        yield self._scored


def _called(recipe: Recipe) -> set[str]:
    """Names of the modules whose forward runs when images come: parameters of the others are read by what surrounds
    them, which must hold them whole by then. Found on a copy without memory."""
    config = recipe.model
    with torch.device("meta"):
        copy = build(config.name, config.num_classes, **config.options).train()
        side = copy.multiple * -(-512 // copy.multiple)  # as good as any that the model takes
        images = torch.empty(2, 3, side, side)
    called = set()
    for name, module in copy.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
    copy(images)
    return called


def _blocks(model: nn.Module, called: set[str]) -> list[nn.Module]:
    """What is worth a turn of its own: the elements of lists and sequences, and the model's direct children."""
    names = {module: name for name, module in model.named_modules()}
    found = [child for each in model.modules() if isinstance(each, nn.ModuleList | nn.Sequential) for child in each]
    found += list(model.children())
    chosen: list[nn.Module] = []
    # Inner ones first, as fully_shard wants it; what contains nothing new is left to its parts.
    for module in sorted(set(found), key=lambda each: sum(1 for _ in each.modules())):
        held = {id(p) for inner in chosen for p in inner.parameters() if inner is not module}
        own = sum(p.numel() for p in module.parameters() if id(p) not in held)
        if own >= SMALLEST and names[module] in called:
            chosen.append(module)
    return chosen
