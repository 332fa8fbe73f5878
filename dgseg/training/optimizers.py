"""Optimisers of a run: the recipe's for the model and the objectives' parameters, and one for each opponent's own."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dgseg.objectives.base import OwnOptimizer
from dgseg.registry import Registry, check_choices
from dgseg.training.learner import Learner
from dgseg.training.schedule import ScheduleConfig, factor, polynomial

OPTIMIZERS: "Registry[OptimizerConfig]" = Registry("optimizer")
optimizer = OPTIMIZERS.register
Undecayed = Literal["nothing", "norms", "vectors"]
Group = dict[str, Any]  # as torch's optimisers take it
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(ABC):
    """Of the run's optimiser: what belongs to every kind. A kind adds its own fields and builds torch's optimiser."""

    registry: ClassVar[Registry[Any]] = OPTIMIZERS

    lr: float
    weight_decay: float = 0.0
    head_multiple: float = 1.0
    """learning rate of everything but the backbone, over the backbone's"""
    backbone: str = "backbone."
    """how the names of the backbone's parameters begin"""
    undecayed: Undecayed = "nothing"
    """norms and position embeddings, or all vectors (biases too), or nothing goes without weight decay"""

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.lr < math.inf:
            raise ValueError(f"optimizer.lr is {self.lr}; it must be at least 0, and finite")

    @abstractmethod
    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """groups: each with its own "lr" and "weight_decay"."""


@optimizer("adamw", "AdamWConfig")
@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    lr: float = 6e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    head_multiple: float = 10.0
    undecayed: Undecayed = "norms"

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps, fused=True)


@optimizer("sgd", "SGDConfig")
@dataclass(frozen=True, kw_only=True)
class SGDConfig(OptimizerConfig):
    lr: float = 0.01
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = False

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        # No fused kernel: FSDP2 cannot shard it.
        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov, foreach=True)


@dataclass
class Optimizers:
    """Every parameter group carries "base_lr"; `set_rates` makes "lr" of it for a step."""

    main: torch.optim.Optimizer
    own: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    powers: dict[str, float | None] = field(default_factory=dict)

    @property
    def all(self) -> list[torch.optim.Optimizer]:
        return [self.main, *self.own.values()]

    def named(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": self.main, **self.own}

    def set_rates(self, schedule: ScheduleConfig, step: int) -> float:
        """For the step that comes. Returns the backbone's (the first group's) rate."""
        for name, optimizer in self.named().items():
            power = self.powers.get(name)
            scale = factor(schedule, step) if power is None else polynomial(step, schedule.steps, power)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * scale
        return float(self.main.param_groups[0]["lr"])

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)


def parameter_groups(learner: Learner, config: OptimizerConfig) -> list[Group]:
    """Of the run's optimiser: the same groups in the same order wherever the learner is built."""
    model = learner.model
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained and not any(p.requires_grad for p in learner.objectives.parameters()):
        raise ValueError("no parameter of the model is trained: model.trainable matches none that may be")
    if config.head_multiple != 1 and not any(name.startswith(config.backbone) for name, _ in model.named_parameters()):
        raise ValueError(
            f"optimizer.head_multiple is {config.head_multiple}, but no parameter of {model.architecture} begins with "
            f"{config.backbone!r}: set it to 1, or optimizer.backbone to what the backbone's names begin with"
        )
    without_decay = _undecayed(model, config.undecayed)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        multiple = 1.0 if name.startswith(config.backbone) else config.head_multiple
        decay = 0.0 if name in without_decay else config.weight_decay
        groups.setdefault((multiple, decay), []).append(parameter)
    for own in learner.objectives.parameter_groups():
        if own.own is None:
            for parameter in own.parameters:
                decay = 0.0 if config.undecayed == "vectors" and parameter.dim() <= 1 else config.weight_decay
                groups.setdefault((own.lr_multiple, decay), []).append(parameter)
    # The backbone's group is the first where there is one: its rate stands in reports.
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], -item[0][1]))
    return [
        {"params": parameters, "weight_decay": decay, "base_lr": config.lr * multiple, "lr": config.lr * multiple}
        for (multiple, decay), parameters in ordered
    ]


def build(learner: Learner, config: OptimizerConfig) -> Optimizers:
    optimizers = Optimizers(config.build(parameter_groups(learner, config)))
    for group in learner.objectives.parameter_groups():
        if group.own is not None:
            optimizers.own[group.name] = _own(group.parameters, group.own)
            optimizers.powers[group.name] = group.own.power
    return optimizers


def state_tensors(config: OptimizerConfig) -> int:
    """Of a parameter's size, that the optimiser keeps for each parameter: counted after a step of a small one."""
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter.grad = torch.zeros_like(parameter)
    probe = config.build([{"params": [parameter], "lr": config.lr, "weight_decay": config.weight_decay}])
    probe.step()
    return sum(isinstance(each, Tensor) and each.shape == parameter.shape for each in probe.state[parameter].values())


def _own(parameters: list[nn.Parameter], config: OwnOptimizer) -> torch.optim.Optimizer:
    group = {"params": parameters, "base_lr": config.lr, "lr": config.lr}
    return torch.optim.Adam([group], betas=config.betas, weight_decay=config.weight_decay, fused=True)


def _undecayed(model: nn.Module, which: Undecayed) -> set[str]:
    if which == "nothing":
        return set()
    named = list(model.named_parameters())
    if which == "vectors":
        return {name for name, p in named if p.dim() <= 1 or "pos_embed" in name}
    of_norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    return of_norms | {name for name, _ in named if "pos_embed" in name}
