"""Mask2Former's own loss, in place of cross-entropy on its semantic logits: every class of an image finds a query, and
that query learns the class and its mask."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.mask2former import Mask2Former
from dgseg.models.mask_loss import mask_loss
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import ORIGINAL, Objective, StepContext, trainable, weighted


@dataclass(frozen=True)
class MaskClassificationConfig:
    weight: float = 1.0
    """of the sum; its parts' own weights (class 2, mask 5, dice 5) are options of the model: class_weight, …"""
    view: str = ORIGINAL
    name: str = "masks"

    def build(self, model: SegmentationModel) -> "MaskClassification":
        if not isinstance(model, Mask2Former):
            raise ValueError(
                f"objective {self.name!r} is Mask2Former's, and this is a {type(model).__name__}: take "
                "mask2former_r50, or objective.ce"
            )
        return MaskClassification(model.network.config, name=self.name, weight=self.weight, view=self.view)


class MaskClassification(Objective):
    def __init__(self, config: Any, *, name: str = "masks", weight: float = 1.0, view: str = ORIGINAL) -> None:
        super().__init__(name, weight, view)
        self.config = config

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        parts = mask_loss(
            self.config,
            self.prediction(outputs),
            trainable(self.labels(batch)),
            batch.draws.tolist(),
            seed=context.seed,
            step=context.step,
            group=context.group,
        )
        self._metrics = {part: value.detach() for part, value in parts.items()}
        return {f"{self.name}/{part}": weighted(value, self.weight) for part, value in parts.items()}
