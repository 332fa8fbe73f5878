"""DAFormer's feature distance: where the label shows things, the encoder stays near the ImageNet features that it began
with, so that training on synthetic images does not make it forget what real things look like.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.data.labels import CLASSES
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.build import build
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import Objective, StepContext, weighted
from dgseg.ops import across_ranks
from dgseg.ops.constants import constant

# traffic light, traffic sign, person, rider, car, truck, bus, train, motorcycle, bicycle
THINGS = (6, 7, *range(11, len(CLASSES)))


@dataclass(frozen=True)
class FeatureDistanceConfig:
    model: str
    """whose encoder is kept frozen: the name of the model that is trained"""
    pretrained: bool | str = True
    """its published weights, or a file with them"""
    weight: float = 0.005
    things: tuple[int, ...] = THINGS
    share: float = 0.75
    """of a feature cell's label pixels that must be of one thing class"""
    image_scale: float = 1.0
    """of the images that the frozen encoder sees; 0.5 for HRDA, whose features are its context branch's"""
    feature: str = "stage4"
    name: str = "fd"

    def build(self, model: SegmentationModel) -> "FeatureDistance":
        if not self.pretrained:
            raise ValueError(
                f"objective {self.name!r} keeps features near ImageNet's, and without pretrained weights there are "
                f"none: give pretrained=True or a file, or leave the objective out"
            )
        return FeatureDistance(
            build(self.model, model.num_classes, pretrained=self.pretrained),
            name=self.name,
            weight=self.weight,
            things=self.things,
            share=self.share,
            image_scale=self.image_scale,
            feature=self.feature,
        )


class FeatureDistance(Objective):
    def __init__(
        self,
        frozen: SegmentationModel,
        *,
        name: str = "fd",
        weight: float = 0.005,
        things: Sequence[int] = THINGS,
        share: float = 0.75,
        image_scale: float = 1.0,
        feature: str = "stage4",
    ) -> None:
        super().__init__(name, weight)
        if not 0.5 < share <= 1:
            raise ValueError(f"share must be above 0.5, so that one class can have it, and at most 1; it is {share}")
        if not things or min(things) < 0 or max(things) >= frozen.num_classes:
            raise ValueError(f"things must be classes, 0 to {frozen.num_classes - 1}; they are {tuple(things)}")
        if not 0 < image_scale <= 1:
            raise ValueError(f"image_scale must be above 0 and at most 1; it is {image_scale}")
        self.things = tuple(things)
        self.share = share
        self.image_scale = image_scale
        self.feature = feature
        # In a list it is no submodule: nothing trains, wraps, shards or saves what never changes and a file holds.
        self._frozen = [frozen.eval().requires_grad_(False)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._frozen[0]._apply(fn)  # type: ignore[no-untyped-call]
        return self

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        features = self.prediction(outputs).features[self.feature]
        anchor = self.anchor(batch.images)
        if anchor.shape != features.shape:
            raise ValueError(
                f"objective {self.name!r}: the frozen encoder's {self.feature!r} is {list(anchor.shape)}, the model's "
                f"{list(features.shape)}: give the model that is trained, and image_scale=0.5 with HRDA"
            )
        mask = thing_cells(self.labels(batch), features.shape[-2:], self.things, self.share)
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        difference = features.to(dtype) - anchor.to(dtype)
        # Cells outside leave the graph before the root, whose slope at 0 is infinite.
        distance = torch.linalg.vector_norm(difference.masked_fill(~mask[:, None], 0.0), dim=1)
        loss = across_ranks.mean(distance.sum(), mask.sum(), context.group)
        self._metrics = {"unweighted": loss.detach(), "cells": mask.sum()}
        return {self.name: weighted(loss, self.weight)}

    @torch.no_grad()
    def anchor(self, images: Tensor) -> Tensor:
        frozen = self._frozen[0]
        if images.dtype == torch.uint8:
            images = frozen.normalise(images)
        if self.image_scale != 1:
            images = F.interpolate(images, scale_factor=self.image_scale, mode="bilinear", align_corners=False)
        encode: Callable[[Tensor], list[Tensor]] | None = getattr(frozen, "encode", None)
        if encode is not None and self.feature.startswith("stage"):  # spares the decoder
            return encode(images)[int(self.feature.removeprefix("stage")) - 1]
        features: Tensor = frozen(images).features[self.feature]
        return features


def thing_cells(labels: Tensor, size: Sequence[int], things: Sequence[int], share: float) -> Tensor:
    """bool [N, h, w]: at least this share of the cell's label pixels, void ones counted, is of one thing class."""
    classes = constant(things, labels.device, dtype=labels.dtype)[:, None, None]
    of_class = (labels[:, None] == classes).float()
    return (F.adaptive_avg_pool2d(of_class, (size[0], size[1])) >= share).any(1)
