"""What a loss is to the training loop: a module that turns predictions and a batch into named terms.

The loop does the same with all of them, in this order:

    terms = objectives(outputs, batch, context)      # weighted: their plain sum is what is minimised
    sum(terms.values()).backward()
    objectives.image_losses()                        # what the hardness sampler learns
    objectives.metrics()                             # when a report is due: unweighted values and statistics

Objectives belong inside whatever wraps the model for many ranks, because they may own parameters (their gradients are
averaged like the model's) and state. State is buffers: saved and resumed with the run, bit for bit, and the same on
every rank. A term is world_size · local sum / global denominator: averaged over ranks it is the global value, as a
gradient is. There is one backward pass for all: an objective with an opponent (a discriminator) takes the model's term
with the opponent's parameters detached and the opponent's term with the model's output detached, and gives the
opponent's parameters an optimiser of their own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch.distributed as dist
from torch import Tensor, nn

from dgseg.data.labels import OUT_OF_DISTRIBUTION, VOID
from dgseg.data.sample import Batch
from dgseg.models.prediction import Prediction

ORIGINAL = "original"  # the view that the batch itself is; the others are in batch.views


@dataclass(frozen=True)
class StepContext:
    step: int
    max_steps: int
    group: dist.ProcessGroup | None = None  # the ranks that share the global batch; None: this process is alone
    seed: int = 0


class ImageLosses(NamedTuple):
    """How hard each image of this rank's batch was."""

    losses: Tensor  # [N], detached: mean unweighted cross-entropy over the image's valid pixels
    valid: Tensor  # bool [N]: False where the image has no valid pixel, and the loss says nothing


class OwnOptimizer(NamedTuple):
    """Adam beside the run's optimiser, on the run's schedule from a rate of its own: a discriminator's."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    power: float | None = None  # of its own polynomial decay; None: the run's schedule


class ParameterGroup(NamedTuple):
    """Parameters of an objective that are trained with the model's."""

    name: str
    parameters: list[nn.Parameter]
    lr_multiple: float  # of the run's learning rate
    own: OwnOptimizer | None = None  # in place of the run's optimiser; lr_multiple then counts for nothing


class Objective(nn.Module, ABC):
    """name: of its terms and metrics. weight: multiplies its terms. view: which of the batch's views it learns from."""

    def __init__(self, name: str, weight: float, view: str = ORIGINAL) -> None:
        super().__init__()
        if not 0 < weight < math.inf:
            raise ValueError(
                f"the weight of objective {name!r} must be positive and finite; it is {weight}. "
                f"To do without the objective, leave it out"
            )
        self.name = name
        self.weight = weight
        self.view = view
        self._metrics: dict[str, Tensor] = {}
        self._image_losses: ImageLosses | None = None

    @abstractmethod
    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Loss terms by name, times `weight`. In training mode it also moves the objective's state."""

    def metrics(self) -> dict[str, Tensor]:
        """Of the last forward: unweighted terms and statistics, 0-d and detached. May wait for the device."""
        return {f"{self.name}/{key}": value for key, value in self._metrics.items()}

    def image_losses(self) -> ImageLosses | None:
        """Of the last forward, from objectives that score whole images; None from the others."""
        return self._image_losses

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def prediction(self, outputs: Mapping[str, Prediction]) -> Prediction:
        if self.view not in outputs:
            raise ValueError(
                f"objective {self.name!r} learns from view {self.view!r}; the model was run on: {', '.join(outputs)}"
            )
        return outputs[self.view]

    def labels(self, batch: Batch) -> Tensor:
        """The view's labels as the batch has them, 254 included: `trainable` them before use."""
        if self.view != ORIGINAL:
            if self.view not in batch.views:
                raise ValueError(
                    f"objective {self.name!r} learns from view {self.view!r}; the batch has: "
                    f"{', '.join([ORIGINAL, *batch.views])}"
                )
            batch = batch.views[self.view]
        if batch.labels is None:
            raise ValueError(f"objective {self.name!r} needs labels, and view {self.view!r} of the batch has none")
        return batch.labels

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """.half() and .bfloat16(), which DeepSpeed calls, do not narrow the state: 0.99·p + 0.01·f in 8 bits is p."""
        state: dict[str, Tensor] = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in state.items():
            after: Any = getattr(self, name)
            if after.dtype.itemsize < before.dtype.itemsize:
                setattr(self, name, before.to(after.device))
        return self


def weighted(loss: Tensor, weight: float) -> Tensor:
    # Not times 1: inductor leaves that out, and what it then returns beside loss.detach() has lost its gradient.
    return loss if weight == 1 else loss * weight


def trainable(labels: Tensor) -> Tensor:
    """Out-of-distribution pixels train no class: for the operators they are void. The batch keeps its own."""
    return labels.masked_fill(labels == OUT_OF_DISTRIBUTION, VOID)


class Objectives(nn.Module):
    """All objectives of a run, by name."""

    def __init__(self, objectives: Mapping[str, Objective]) -> None:
        super().__init__()
        if not objectives:
            raise ValueError("a run needs at least one objective, or there is nothing to learn")
        self.each = nn.ModuleDict(objectives)

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        return merged({key: objective(outputs, batch, context) for key, objective in self.each.items()}, "terms")

    def metrics(self) -> dict[str, Tensor]:
        return merged({key: objective.metrics() for key, objective in self._objectives()}, "metrics")

    def image_losses(self) -> ImageLosses | None:
        """Of the first objective that scores whole images; None where none does."""
        found = (objective.image_losses() for _, objective in self._objectives())
        return next((losses for losses in found if losses is not None), None)

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [group for _, objective in self._objectives() for group in objective.parameter_groups()]
        held = {id(parameter) for group in groups for parameter in group.parameters}
        forgotten = [name for name, parameter in self.named_parameters() if id(parameter) not in held]
        assert not forgotten, f"no group trains {forgotten}"
        return groups

    def _objectives(self) -> list[tuple[str, Objective]]:
        return [(key, module) for key, module in self.each.items() if isinstance(module, Objective)]


def merged(found: Mapping[str, Mapping[str, Tensor]], what: str) -> dict[str, Tensor]:
    """One dictionary out of the objectives' own."""
    result: dict[str, Tensor] = {}
    owner: dict[str, str] = {}
    for key, own in found.items():
        for name, value in own.items():
            if name in result:
                raise ValueError(
                    f"objectives {owner[name]!r} and {key!r} both return {what} named {name!r}: "
                    f"give one of them another name=..."
                )
            result[name], owner[name] = value, key
    return result
