"""Focal loss, which looks at pixels, Dice loss, which looks at regions, and their mixture, in place of cross-entropy.

Logits stay at the model's resolution: the operator upsamples inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dgseg.data.labels import VOID
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import Objective, StepContext, objective, trainable, weighted
from dgseg.objectives.class_weights import MEDIAN_FREQUENCY, ClassWeight, tensor_of
from dgseg.objectives.cross_entropy import cropped
from dgseg.ops import focal_dice


@objective("focal_dice")
class FocalDice(Objective):
    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        """focal() and dice() are one loss alone; combined() is the real-time study's mixture of weighted Dice and
        focal."""

        alpha: float = 0.5
        """alpha · Dice + (1 - alpha) · focal"""
        gamma: float = 1.0
        """of the focal loss: (1 - p) ** gamma weighs easy pixels down; 0 is cross-entropy"""
        smooth: float = 1.0
        """of the Dice loss, in pixels"""
        focal_class_weight: ClassWeight = None
        """multiplies each pixel's loss by its class's weight; the denominator stays a pixel count"""
        dice_class_weight: ClassWeight = None
        """of the mean over the classes"""
        name: str = "focal_dice"

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.alpha <= 1:
                raise ValueError(f"alpha must be between 0 (focal alone) and 1 (Dice alone); it is {self.alpha}")

        @classmethod
        def focal(cls, class_weight: ClassWeight = None) -> Self:
            return cls(alpha=0.0, focal_class_weight=class_weight, name="focal")

        @classmethod
        def dice(cls, class_weight: ClassWeight = None) -> Self:
            return cls(alpha=1.0, dice_class_weight=class_weight, name="dice")

        @classmethod
        def combined(cls, alpha: float, dice_class_weight: ClassWeight = MEDIAN_FREQUENCY) -> Self:
            return cls(alpha=alpha, dice_class_weight=dice_class_weight)

    config: Config
    class_weight: Tensor | None

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__(config, model)
        alpha, classes = config.alpha, model.num_classes
        rows = [
            tensor_of("focal_class_weight", config.focal_class_weight if alpha < 1 else None, classes),
            tensor_of("dice_class_weight", config.dice_class_weight if alpha > 0 else None, classes),
        ]
        both = torch.stack([torch.ones(classes) if row is None else row for row in rows])
        weighs = any(row is not None for row in rows)
        self.register_buffer("class_weight", both if weighs else None, persistent=False)  # the recipe has them

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        prediction = self.prediction(outputs)
        labels = trainable(self.labels(batch))
        self._metrics = {}
        loss = self.mixture(prediction.logits, labels, context, "")
        terms = {self.name: weighted(loss, self.config.weight * prediction.extra.get("weight", 1.0))}
        for number, aux in enumerate(prediction.aux, start=1):
            own_labels = labels if aux.box is None else cropped(labels, aux.box)
            loss = self.mixture(aux.logits, own_labels, context, f"aux{number}_")
            terms[f"{self.name}/aux{number}"] = weighted(loss, self.config.weight * aux.weight)
        return terms

    def mixture(self, logits: Tensor, labels: Tensor, context: StepContext, prefix: str) -> Tensor:
        alpha = self.config.alpha
        both = focal_dice(
            logits,
            labels,
            gamma=self.config.gamma,
            smooth=self.config.smooth,
            class_weight=self.class_weight,
            ignore_index=VOID,
            group=context.group,
        )
        if alpha == 0:
            loss, parts = both.focal, {"focal": both.focal}
        elif alpha == 1:
            loss, parts = both.dice, {"dice": both.dice}
        else:
            loss, parts = alpha * both.dice + (1 - alpha) * both.focal, both._asdict()
        self._metrics |= {f"{prefix}{part}": value.detach() for part, value in (parts | {"unweighted": loss}).items()}
        return loss
