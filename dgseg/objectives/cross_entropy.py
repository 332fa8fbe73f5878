"""Cross-entropy on every prediction that a model makes of a view, with each image's own loss for the hardness sampler.

Logits stay at the model's resolution: the operator upsamples inside.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dgseg.data.labels import VOID
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Box, Prediction
from dgseg.objectives.base import ImageLosses, Objective, StepContext, objective, trainable, weighted
from dgseg.objectives.class_weights import ClassWeight, tensor_of
from dgseg.ops import entropy_weighted_cross_entropy
from dgseg.ops.entropy_weighted_cross_entropy.reference import EntropyWeightedLoss


@objective("cross_entropy", "ce", "ce_augmented")
class CrossEntropy(Objective):
    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        denominator: Literal["valid", "all"] = "valid"
        """divide by the global batch's valid pixels, or by all its pixels: as mmsegmentation 0.16, and the papers' N"""
        class_weight: ClassWeight = None
        """multiplies each pixel's loss by its class's weight; the denominator stays a pixel count"""
        aux_multiple: float = 1.0
        """of the weights that the model gives its auxiliary predictions; 0 leaves them out"""
        name: str = "ce"

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.aux_multiple < math.inf:
                raise ValueError(f"aux_multiple must be at least 0, and finite; it is {self.aux_multiple}")

    config: Config
    scores_images = True
    class_weight: Tensor | None

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__(config, model)
        weights = tensor_of("class_weight", config.class_weight, model.num_classes)
        self.register_buffer("class_weight", weights, persistent=False)  # the recipe has them

    def bands(self, labels: Tensor) -> Tensor | None:
        """Where pixels weigh more; None: nowhere."""
        return None

    def loss(self, logits: Tensor, labels: Tensor, bands: Tensor | None, context: StepContext) -> EntropyWeightedLoss:
        return entropy_weighted_cross_entropy(
            logits,
            labels,
            bands,
            denominator=self.config.denominator,
            class_weight=self.class_weight,
            ignore_index=VOID,
            group=context.group,
        )

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        config, prediction = self.config, self.prediction(outputs)
        labels = trainable(self.labels(batch))
        bands = self.bands(labels)
        main = self.loss(prediction.logits, labels, bands, context)
        self._metrics = {"unweighted": main.loss.detach()}
        if bands is not None:
            self._metrics["band_entropy"] = main.band_entropy
        terms = {self.name: weighted(main.loss, config.weight * prediction.extra.get("weight", 1.0))}
        for number, aux in enumerate(prediction.aux if config.aux_multiple else [], start=1):
            if aux.box is None:
                own_labels, own_bands = labels, bands
            else:
                # The crop's own bands: what lies outside it makes no boundary for a prediction that has not seen it.
                own_labels = cropped(labels, aux.box)
                own_bands = self.bands(own_labels)
            loss = self.loss(aux.logits, own_labels, own_bands, context).loss
            terms[f"{self.name}/aux{number}"] = weighted(loss, config.weight * config.aux_multiple * aux.weight)
            self._metrics[f"aux{number}_unweighted"] = loss.detach()
        self._image_losses = ImageLosses(main.per_image, (labels != VOID).flatten(1).any(1))
        return terms


def cropped(labels: Tensor, box: Box) -> Tensor:
    if isinstance(box.top, int) and isinstance(box.left, int):
        return labels[:, box.top : box.top + box.height, box.left : box.left + box.width]
    rows = box.top + torch.arange(box.height, device=labels.device)
    columns = box.left + torch.arange(box.width, device=labels.device)
    return labels.index_select(1, rows).index_select(2, columns)
