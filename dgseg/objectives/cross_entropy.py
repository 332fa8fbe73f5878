"""Cross-entropy on every prediction that a model makes of a view, with each image's own loss for the hardness sampler.

Logits stay at the model's resolution: the operator upsamples inside.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dgseg.data.labels import VOID
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Box, Prediction
from dgseg.objectives.base import ORIGINAL, ImageLosses, Objective, StepContext, trainable, weighted
from dgseg.objectives.class_weights import ClassWeight, tensor_of
from dgseg.ops import entropy_weighted_cross_entropy


@dataclass(frozen=True)
class CrossEntropyConfig:
    weight: float = 1.0
    denominator: Literal["valid", "all"] = "valid"
    """divide by the global batch's valid pixels, or by all its pixels as mmsegmentation 0.16 does"""
    class_weight: ClassWeight = None
    """multiplies each pixel's loss by its class's weight; the denominator stays a pixel count"""
    aux_multiple: float = 1.0
    """of the weights that the model gives its auxiliary predictions; 0 leaves them out"""
    view: str = ORIGINAL
    name: str = "ce"

    def build(self, model: SegmentationModel) -> "CrossEntropy":
        return CrossEntropy(
            model.num_classes,
            name=self.name,
            weight=self.weight,
            view=self.view,
            denominator=self.denominator,
            class_weight=self.class_weight,
            aux_multiple=self.aux_multiple,
        )


class CrossEntropy(Objective):
    class_weight: Tensor | None

    def __init__(
        self,
        num_classes: int,
        *,
        name: str = "ce",
        weight: float = 1.0,
        view: str = ORIGINAL,
        denominator: str = "valid",
        class_weight: Sequence[float] | str | None = None,
        aux_multiple: float = 1.0,
    ) -> None:
        super().__init__(name, weight, view)
        if not 0 <= aux_multiple < math.inf:
            raise ValueError(f"aux_multiple must be at least 0, and finite; it is {aux_multiple}")
        if denominator not in ("valid", "all"):
            raise ValueError(f'denominator must be "valid" or "all"; it is {denominator!r}')
        self.denominator = denominator
        self.aux_multiple = aux_multiple
        weights = tensor_of("class_weight", class_weight, num_classes)
        self.register_buffer("class_weight", weights, persistent=False)  # the recipe has them

    def bands(self, labels: Tensor) -> Tensor | None:
        """Where pixels weigh more; None: nowhere."""
        return None

    def options(self) -> Mapping[str, Any]:
        """How much more: further arguments of the operator."""
        return {}

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        prediction = self.prediction(outputs)
        labels = trainable(self.labels(batch))
        bands = self.bands(labels)
        options = {
            "denominator": self.denominator,
            "class_weight": self.class_weight,
            "ignore_index": VOID,
            "group": context.group,
            **self.options(),
        }
        main = entropy_weighted_cross_entropy(prediction.logits, labels, bands, **options)
        self._metrics = {"unweighted": main.loss.detach()}
        if bands is not None:
            self._metrics["band_entropy"] = main.band_entropy
        terms = {self.name: weighted(main.loss, self.weight * prediction.extra.get("weight", 1.0))}
        for number, aux in enumerate(prediction.aux if self.aux_multiple else [], start=1):
            if aux.box is None:
                own_labels, own_bands = labels, bands
            else:
                # The crop's own bands: what lies outside it makes no boundary for a prediction that has not seen it.
                own_labels = cropped(labels, aux.box)
                own_bands = self.bands(own_labels)
            loss = entropy_weighted_cross_entropy(aux.logits, own_labels, own_bands, **options).loss
            terms[f"{self.name}/aux{number}"] = weighted(loss, self.weight * self.aux_multiple * aux.weight)
            self._metrics[f"aux{number}_unweighted"] = loss.detach()
        self._image_losses = ImageLosses(main.per_image, (labels != VOID).flatten(1).any(1))
        return terms


def cropped(labels: Tensor, box: Box) -> Tensor:
    if isinstance(box.top, int) and isinstance(box.left, int):
        return labels[:, box.top : box.top + box.height, box.left : box.left + box.width]
    rows = box.top + torch.arange(box.height, device=labels.device)
    columns = box.left + torch.arange(box.width, device=labels.device)
    return labels.index_select(1, rows).index_select(2, columns)
