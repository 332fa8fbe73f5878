"""Focal loss, which looks at pixels, Dice loss, which looks at regions, and their mixture, in place of cross-entropy.

Logits stay at the model's resolution: the operator upsamples inside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dgseg.data.labels import VOID
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import ORIGINAL, Objective, StepContext, trainable, weighted
from dgseg.objectives.class_weights import MEDIAN_FREQUENCY, ClassWeight, tensor_of
from dgseg.objectives.cross_entropy import cropped
from dgseg.ops import focal_dice


@dataclass(frozen=True)
class FocalDiceConfig:
    """focal() and dice() are one loss alone; combined() is the real-time study's mixture of weighted Dice and focal."""

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
    weight: float = 1.0
    view: str = ORIGINAL
    name: str = "focal_dice"

    @classmethod
    def focal(cls, class_weight: ClassWeight = None) -> Self:
        return cls(alpha=0.0, focal_class_weight=class_weight, name="focal")

    @classmethod
    def dice(cls, class_weight: ClassWeight = None) -> Self:
        return cls(alpha=1.0, dice_class_weight=class_weight, name="dice")

    @classmethod
    def combined(cls, alpha: float, dice_class_weight: ClassWeight = MEDIAN_FREQUENCY) -> Self:
        return cls(alpha=alpha, dice_class_weight=dice_class_weight)

    def build(self, model: SegmentationModel) -> "FocalDice":
        return FocalDice(
            model.num_classes,
            name=self.name,
            weight=self.weight,
            view=self.view,
            alpha=self.alpha,
            gamma=self.gamma,
            smooth=self.smooth,
            focal_class_weight=self.focal_class_weight,
            dice_class_weight=self.dice_class_weight,
        )


class FocalDice(Objective):
    class_weight: Tensor | None

    def __init__(
        self,
        num_classes: int,
        *,
        name: str = "focal_dice",
        weight: float = 1.0,
        view: str = ORIGINAL,
        alpha: float = 0.5,
        gamma: float = 1.0,
        smooth: float = 1.0,
        focal_class_weight: Sequence[float] | str | None = None,
        dice_class_weight: Sequence[float] | str | None = None,
    ) -> None:
        super().__init__(name, weight, view)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 (focal alone) and 1 (Dice alone); it is {alpha}")
        self.alpha, self.gamma, self.smooth = alpha, gamma, smooth
        rows = [
            tensor_of("focal_class_weight", focal_class_weight if alpha < 1 else None, num_classes),
            tensor_of("dice_class_weight", dice_class_weight if alpha > 0 else None, num_classes),
        ]
        both = torch.stack([torch.ones(num_classes) if row is None else row for row in rows])
        weighs = any(row is not None for row in rows)
        self.register_buffer("class_weight", both if weighs else None, persistent=False)  # the recipe has them

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        prediction = self.prediction(outputs)
        labels = trainable(self.labels(batch))
        self._metrics = {}
        loss = self.mixture(prediction.logits, labels, context, "")
        terms = {self.name: weighted(loss, self.weight * prediction.extra.get("weight", 1.0))}
        for number, aux in enumerate(prediction.aux, start=1):
            own_labels = labels if aux.box is None else cropped(labels, aux.box)
            loss = self.mixture(aux.logits, own_labels, context, f"aux{number}_")
            terms[f"{self.name}/aux{number}"] = weighted(loss, self.weight * aux.weight)
        return terms

    def mixture(self, logits: Tensor, labels: Tensor, context: StepContext, prefix: str) -> Tensor:
        found = focal_dice(
            logits,
            labels,
            gamma=self.gamma,
            smooth=self.smooth,
            class_weight=self.class_weight,
            ignore_index=VOID,
            group=context.group,
        )
        if self.alpha == 0:
            loss, parts = found.focal, {"focal": found.focal}
        elif self.alpha == 1:
            loss, parts = found.dice, {"dice": found.dice}
        else:
            loss, parts = self.alpha * found.dice + (1 - self.alpha) * found.focal, found._asdict()
        self._metrics |= {f"{prefix}{part}": value.detach() for part, value in (parts | {"unweighted": loss}).items()}
        return loss
