"""Mask2Former's own loss, in place of cross-entropy on its semantic logits: every class of an image finds a query, and
that query learns the class and its mask."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.mask2former import Mask2Former
from dgseg.models.mask_loss import mask_loss
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import Objective, StepContext, objective, trainable, weighted


@objective("mask_classification", "masks")
class MaskClassification(Objective):
    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        weight: float = 1.0
        """of the sum; its parts' own weights (class 2, mask 5, dice 5) are options of the model: class_weight, …"""
        name: str = "masks"

    config: Config

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__(config, model)
        if not isinstance(model, Mask2Former):
            raise ValueError(
                f"objective {self.name!r} is Mask2Former's, and this is a {type(model).__name__}: take "
                "mask2former_r50, or objective.ce"
            )
        self.network = model.network.config

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        parts = mask_loss(
            self.network,
            self.prediction(outputs),
            trainable(self.labels(batch)),
            batch.draws.tolist(),
            seed=context.seed,
            step=context.step,
            group=context.group,
        )
        self._metrics = {part: value.detach() for part, value in parts.items()}
        return {f"{self.name}/{part}": weighted(value, self.config.weight) for part, value in parts.items()}
