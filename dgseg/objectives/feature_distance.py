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
from dgseg.objectives.base import Objective, StepContext, objective, weighted
from dgseg.ops import across_ranks
from dgseg.ops.constants import constant

# traffic light, traffic sign, person, rider, car, truck, bus, train, motorcycle, bicycle
THINGS = (6, 7, *range(11, len(CLASSES)))


@objective("feature_distance", "fd")
class FeatureDistance(Objective):
    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        model: str | None = None
        """whose encoder is kept frozen, by name; None: the architecture that is trained"""
        pretrained: bool | str = True
        """its published weights, or a file with them"""
        weight: float = 0.005
        things: tuple[int, ...] = THINGS
        """the classes whose cells count"""
        share: float = 0.75
        """of a feature cell's label pixels that must be of one thing class"""
        image_scale: float = 1.0
        """of the images that the frozen encoder sees; 0.5 for HRDA, whose features are its context branch's"""
        feature: str = "stage4"
        name: str = "fd"

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.pretrained:
                raise ValueError(
                    f"objective {self.name!r} keeps features near ImageNet's, and without pretrained weights there are "
                    f"none: give pretrained=True or a file, or leave the objective out"
                )
            if not 0.5 < self.share <= 1:
                raise ValueError(
                    f"share must be above 0.5, so that one class can have it, and at most 1; it is {self.share}"
                )
            if not 0 < self.image_scale <= 1:
                raise ValueError(f"image_scale must be above 0 and at most 1; it is {self.image_scale}")

    config: Config

    def __init__(self, config: Config, model: SegmentationModel, frozen: SegmentationModel | None = None) -> None:
        """frozen: the encoder to stay near to, in place of the one that the config names."""
        super().__init__(config, model)
        things, classes = config.things, model.num_classes
        if not things or min(things) < 0 or max(things) >= classes:
            raise ValueError(f"things must be classes, 0 to {classes - 1}; they are {things}")
        if frozen is None:
            frozen = build(config.model or model.architecture, classes, pretrained=config.pretrained)
        # In a list it is no submodule: nothing trains, wraps, shards or saves what never changes and a file holds.
        self._frozen = [frozen.eval().requires_grad_(False)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._frozen[0]._apply(fn)  # type: ignore[no-untyped-call]
        return self

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        config = self.config
        features = self.prediction(outputs).features[config.feature]
        anchor = self.anchor(self.seen(batch).images)
        if anchor.shape != features.shape:
            raise ValueError(
                f"objective {self.name!r}: the frozen encoder's {config.feature!r} is {list(anchor.shape)}, the "
                f"model's {list(features.shape)}: give the model that is trained, and image_scale=0.5 with HRDA"
            )
        mask = thing_cells(self.labels(batch), features.shape[-2:], config.things, config.share)
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        difference = features.to(dtype) - anchor.to(dtype)
        # Cells outside leave the graph before the root, whose slope at 0 is infinite.
        distance = torch.linalg.vector_norm(difference.masked_fill(~mask[:, None], 0.0), dim=1)
        loss = across_ranks.mean(distance.sum(), mask.sum(), context.group)
        self._metrics = {"unweighted": loss.detach(), "cells": mask.sum()}
        return {self.name: weighted(loss, config.weight)}

    @torch.no_grad()
    def anchor(self, images: Tensor) -> Tensor:
        config, frozen = self.config, self._frozen[0]
        if images.dtype == torch.uint8:
            images = frozen.normalise(images)
        if config.image_scale != 1:
            images = F.interpolate(images, scale_factor=config.image_scale, mode="bilinear", align_corners=False)
        encode: Callable[[Tensor], list[Tensor]] | None = getattr(frozen, "encode", None)
        if encode is not None and config.feature.startswith("stage"):  # spares the decoder
            return encode(images)[int(config.feature.removeprefix("stage")) - 1]
        features: Tensor = frozen(images).features[config.feature]
        return features


def thing_cells(labels: Tensor, size: Sequence[int], things: Sequence[int], share: float) -> Tensor:
    """bool [N, h, w]: at least this share of the cell's label pixels, void ones counted, is of one thing class."""
    classes = constant(things, labels.device, dtype=labels.dtype)[:, None, None]
    of_class = (labels[:, None] == classes).float()
    return (F.adaptive_avg_pool2d(of_class, (size[0], size[1])) >= share).any(1)
