"""Weights averaged over the run: w̄ ← d·w̄ + (1−d)·w after every step, with d ramping up: the random start fades."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Of a model's parameters; its buffers (batch norms' statistics) are averages already and are taken as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"train.ema is the decay of the averaged weights, between 0 and 1; it is {decay}")
        self.decay = decay
        self.model = model
        self.steps = 0
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        new = [parameter.detach() for parameter in self.model.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), new, 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights meanwhile."""
        own = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.weights[name])
        try:
            yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.copy_(own[name])
