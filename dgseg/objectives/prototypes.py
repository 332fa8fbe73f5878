"""FLEX-Seg's Granular Adaptive Prototypes (GAP, Eq. 3 to 6): boundary pixels are pulled to the prototype of their class
and boundary thickness, and pushed from all others; the prototypes follow the pixels as moving averages.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dgseg.data.labels import VOID
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import Objective, ParameterGroup, StepContext, objective, trainable, weighted
from dgseg.objectives.pixels import capped, feature_channels, feature_map, nearest
from dgseg.ops import boundary_bands, prototype_ema_, prototype_info_nce

logger = logging.getLogger(__name__)

FEEBLE = 0.01  # mean weight at which a rare class has all but switched the loss off for the others


@objective("prototype_contrast", "gap")
class PrototypeContrast(Objective):
    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        weight: float = 0.5
        """λ_gap"""
        dim: int = 256
        """of the prototypes; a feature map of another width gets a 1x1 projection"""
        radii: tuple[int, ...] = (1, 2, 4)
        """of the bands thin, medium, thick, in feature pixels"""
        nested: bool = False
        """a pixel counts in every band that holds it (Eq. 3 read literally), not in the thinnest alone"""
        momentum: float = 0.99
        temperature: float = 0.07
        update: Literal["batch_mean", "pixel"] = "batch_mean"
        """one step per prototype and global batch with the mean feature, or one per pixel as Eq. 4 says"""
        cap: int | None = None
        """at most this many pixels per (class, thinnest band) of the global batch; None: all"""
        feature: str = "decoder"
        lr_multiple: float = 10.0
        """of the projection; like the published heads'"""
        name: str = "gap"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.cap is not None and self.cap < 1:
                raise ValueError(f"cap must be at least 1 pixel; it is {self.cap}. None takes all pixels")

    config: Config
    prototypes: Tensor  # [C, G, D]
    updates: Tensor  # int64 [C, G]; 0: never seen

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__(config, model)
        channels, dim = feature_channels(model, config.feature), config.dim
        self.projection = nn.Conv2d(channels, dim, 1) if channels != dim else None
        self.register_buffer("prototypes", torch.zeros(model.num_classes, len(config.radii), dim))
        self.register_buffer("updates", torch.zeros(model.num_classes, len(config.radii), dtype=torch.int64))
        self._weighed: Weighed | None = None
        self._warned = False

    def parameter_groups(self) -> list[ParameterGroup]:
        if self.projection is None:
            return []
        return [ParameterGroup(f"{self.name}.projection", list(self.projection.parameters()), self.config.lr_multiple)]

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        config = self.config
        features = self.features(self.prediction(outputs))
        labels = trainable(nearest(self.labels(batch), features.shape[-2:]))
        bands = boundary_bands(labels, config.radii, ignore_index=VOID)
        if config.cap is not None:
            bands = capped(bands, labels, config.cap, self.updates.shape, batch.draws, context)
        weights, seen = prototype_weights(self.updates)
        loss = prototype_info_nce(
            features,
            labels,
            bands,
            self.prototypes,
            weights.to(self.prototypes.dtype),
            temperature=config.temperature,
            seen=seen,
            nested=config.nested,
            group=context.group,
        )
        self._metrics = {"unweighted": loss.detach(), "seen": seen.sum()}
        self._weighed = Weighed(labels, bands, weights, seen)
        if self.training:
            prototype_ema_(
                self.prototypes,
                self.updates,
                features.detach(),
                labels,
                bands,
                momentum=config.momentum,
                mode=config.update,
                nested=config.nested,
                seed=context.seed,
                step=context.step,
                sample_ids=batch.draws,
                group=context.group,
            )
        return {self.name: weighted(loss, config.weight)}

    def features(self, prediction: Prediction) -> Tensor:
        features = feature_map(self.name, prediction, self.config.feature)
        return features if self.projection is None else self.projection(features)

    def metrics(self) -> dict[str, Tensor]:
        """mean_weight: of the terms of this rank's last batch, the scale at which the loss acts; 0 without terms."""
        if self._weighed is None:
            return {}
        mean = mean_weight(self._weighed, self.config.nested)
        if not self._warned and 0 < float(mean) < FEEBLE:
            self._warned = True
            logger.warning(
                "objective %r: the mean weight of its pixels is %.4f, so it hardly acts: one rarely seen class weighs "
                'all others down. update="batch_mean" counts batches, not pixels, and is milder',
                self.name,
                float(mean),
            )
        return super().metrics() | {f"{self.name}/mean_weight": mean}


class Weighed(NamedTuple):
    """What the mean weight of a batch is made of, once it is asked for."""

    labels: Tensor  # [N, h, w]
    bands: Tensor  # [N, h, w]
    weights: Tensor  # [C, G]
    seen: Tensor  # [C, G]


def mean_weight(of: Weighed, nested: bool) -> Tensor:
    sums, counts = of.weights, of.seen.to(of.weights.dtype)
    if nested:  # a pixel has a term in each band from its thinnest on
        sums, counts = (table.flip(1).cumsum(1).flip(1) for table in (sums, counts))
    at = of.bands > 0
    pixels = of.labels[at].long(), of.bands[at].long() - 1
    return sums[pixels].sum() / counts[pixels].sum().clamp(min=1)


# An operator of its own, because training changes `updates` in place after the loss: in a compiled graph plain torch
# could be computed again in the backward, from the changed numbers.
@torch.library.custom_op("dgseg::prototype_weights", mutates_args=())
def prototype_weights(updates: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 6 over the seen prototypes: w = (max u + 1)/(u + 1)/Z with Z such that the rarest has 1, which leaves
    (min u + 1)/(u + 1); 0 for the unseen. Float64 weights and bool seen, both [C, G]."""
    seen = updates > 0
    rarest = torch.where(seen, updates, torch.iinfo(torch.int64).max).min().double()
    weights = torch.where(seen, (rarest + 1) / (updates.double() + 1), 0.0)
    return weights, seen


@prototype_weights.register_fake
def _fake_weights(updates: Tensor) -> tuple[Tensor, Tensor]:
    return updates.new_empty(updates.shape, dtype=torch.float64), updates.new_empty(updates.shape, dtype=torch.bool)
