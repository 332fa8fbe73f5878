"""What a loss is to the training loop: a module that turns predictions and a batch into named terms.

The loop does the same with all of them, in this order:

    terms = objectives(outputs, batch, context)      # weighted: their plain sum is what is minimised
    sum(terms.values()).backward()
    objectives.image_losses()                        # what the hardness sampler learns
    objectives.metrics()                             # when a report is due: unweighted values and statistics

A loss is one file: a class with its Config inside, registered by name.

    @objective("focal_tversky")
    class FocalTversky(Objective):
        @dataclass(frozen=True, kw_only=True)
        class Config(Objective.Config):
            gamma: float = 0.75
            \"\"\"of the focus; becomes the flag --objective.NAME.gamma, with this line as its help\"\"\"

        config: Config

Objectives belong inside whatever wraps the model for many ranks, because they may own parameters (their gradients are
averaged like the model's) and state. State is buffers: saved and resumed with the run, bit for bit, and the same on
every rank. A term is world_size · local sum / global denominator: averaged over ranks it is the global value, as a
gradient is. There is one backward pass for all: an objective with an opponent (a discriminator) takes the model's term
with the opponent's parameters detached and the opponent's term with the model's output detached, and gives the
opponent's parameters an optimiser of their own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import torch.distributed as dist
from torch import Tensor, nn

from dgseg.data.labels import OUT_OF_DISTRIBUTION, VOID
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.registry import Registry, check_choices

ORIGINAL = "original"  # the view that the batch itself is; the others are in batch.views
OBJECTIVES: "Registry[Objective.Config]" = Registry("objective")


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
    """Built from its config for a model. What only a model can decide (its number of classes, widths of its feature
    maps) is checked here, everything else by the config."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        registry: ClassVar[Registry[Any]] = OBJECTIVES
        builds: ClassVar[type["Objective"]]  # set where it is registered

        weight: float = 1.0
        """multiplies its terms"""
        view: str = ORIGINAL
        """of the batch that it learns from: the images as they are, or augmented"""
        name: str = ""
        """of its terms and metrics; empty: its kind"""

        def __post_init__(self) -> None:
            if not self.name:
                object.__setattr__(self, "name", OBJECTIVES.kind(self))
            check_choices(self)
            if not 0 < self.weight < math.inf:
                raise ValueError(
                    f"the weight of objective {self.name!r} must be positive and finite; it is {self.weight}. "
                    "To do without the objective, leave it out"
                )

        def part(self) -> type["Objective"]:
            OBJECTIVES.kind(self)  # a subclass that is not registered would build its parent
            return self.builds

        def build(self, model: SegmentationModel) -> "Objective":
            return self.part()(self, model)

    scores_images: ClassVar[bool] = False  # whether image_losses() has something to say
    config: Config

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__()
        self.config = config
        self.name = config.name
        self._metrics: dict[str, Tensor] = {}
        self._image_losses: ImageLosses | None = None

    @abstractmethod
    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Loss terms by name, times their weight. In training mode it also moves the objective's state."""

    def metrics(self) -> dict[str, Tensor]:
        """Of the last forward: unweighted terms and statistics, 0-d and detached. May wait for the device."""
        return {f"{self.name}/{key}": value for key, value in self._metrics.items()}

    def image_losses(self) -> ImageLosses | None:
        """Of the last forward, from objectives that score whole images; None from the others."""
        return self._image_losses

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def prediction(self, outputs: Mapping[str, Prediction]) -> Prediction:
        view = self.config.view
        if view not in outputs:
            raise ValueError(
                f"objective {self.name!r} learns from view {view!r}; the model was run on: {', '.join(outputs)}"
            )
        return outputs[view]

    def seen(self, batch: Batch) -> Batch:
        """The view that it learns from."""
        view = self.config.view
        if view == ORIGINAL:
            return batch
        if view not in batch.views:
            raise ValueError(
                f"objective {self.name!r} learns from view {view!r}; the batch has: "
                f"{', '.join([ORIGINAL, *batch.views])}"
            )
        return batch.views[view]

    def labels(self, batch: Batch) -> Tensor:
        """The view's labels as the batch has them, 254 included: `trainable` them before use."""
        labels = self.seen(batch).labels
        if labels is None:
            raise ValueError(
                f"objective {self.name!r} needs labels, and view {self.config.view!r} of the batch has none"
            )
        return labels

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """.half() and .bfloat16(), which DeepSpeed calls, do not narrow the state: 0.99·p + 0.01·f in 8 bits is p."""
        state: dict[str, Tensor] = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in state.items():
            after: Any = getattr(self, name)
            if after.dtype.itemsize < before.dtype.itemsize:
                setattr(self, name, before.to(after.device))
        return self


Part = TypeVar("Part", bound=type[Objective])


def objective(kind: str, *aliases: str) -> Callable[[Part], Part]:
    """Registers an objective's Config. A recipe may leave the kind out where it has one of these names for the part:
    {"ube": {"alpha": 5}}."""

    def register(part: Part) -> Part:
        config = vars(part).get("Config")
        if config is None:
            raise TypeError(
                f"{part.__qualname__} needs a Config of its own: a dataclass in the class, even an empty one"
            )
        OBJECTIVES.register(kind, *aliases)(config)
        config.builds = part
        return part

    return register


def weighted(loss: Tensor, weight: float) -> Tensor:
    # Not times 1: inductor leaves that out, and what it then returns beside loss.detach() has lost its gradient.
    return loss if weight == 1 else loss * weight


def trainable(labels: Tensor) -> Tensor:
    """Out-of-distribution pixels train no class: for the operators they are void. The batch keeps its own."""
    return labels.masked_fill(labels == OUT_OF_DISTRIBUTION, VOID)


class Objectives(nn.ModuleDict):
    """All objectives of a run, by name."""

    def __init__(self, objectives: Mapping[str, Objective]) -> None:
        if not objectives:
            raise ValueError("a run needs at least one objective, or there is nothing to learn")
        super().__init__(objectives)

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        return merged({key: objective(outputs, batch, context) for key, objective in self.items()}, "terms")

    def metrics(self) -> dict[str, Tensor]:
        return merged({key: objective.metrics() for key, objective in self._objectives()}, "metrics")

    def image_losses(self) -> ImageLosses | None:
        """Of the first objective that scores whole images; None where none does."""
        every = (objective.image_losses() for _, objective in self._objectives())
        return next((losses for losses in every if losses is not None), None)

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [group for _, objective in self._objectives() for group in objective.parameter_groups()]
        held = {id(parameter) for group in groups for parameter in group.parameters}
        forgotten = [name for name, parameter in self.named_parameters() if id(parameter) not in held]
        assert not forgotten, f"no group trains {forgotten}"
        return groups

    def _objectives(self) -> Iterator[tuple[str, Objective]]:
        for key, module in self.items():
            assert isinstance(module, Objective)
            yield key, module


def merged(parts: Mapping[str, Mapping[str, Tensor]], what: str) -> dict[str, Tensor]:
    """One dictionary out of the objectives' own."""
    result: dict[str, Tensor] = {}
    owner: dict[str, str] = {}
    for key, part in parts.items():
        for name, value in part.items():
            if name in result:
                raise ValueError(
                    f"objectives {owner[name]!r} and {key!r} both return {what} named {name!r}: "
                    f"give one of them another name=..."
                )
            result[name], owner[name] = value, key
    return result
