"""BlindNet's covariance alignment: covariance matching (CML, Eq. 3) makes the augmented view's channels vary together
as the original's do, cross-covariance (CCL, Eq. 5) makes every channel show the same places in both.

N images, C channels, P pixels of a map.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dgseg.data.augment.pipeline import AUGMENTED
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.norms import instance_norm
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import ORIGINAL, Objective, StepContext, objective, weighted
from dgseg.objectives.pixels import feature_channels, feature_map
from dgseg.ops import across_ranks
from dgseg.ops.constants import constant

EPS = 1e-5  # on the diagonal of every covariance


@objective("covariance_alignment", "covariance")
class CovarianceAlignment(Objective):
    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        """For a model with instance_norms="whitening", whose maps norm0 … are instance-normalised."""

        cml: float | None = 0.2
        """weight of covariance matching, ω1; None: without it"""
        ccl: float | None = 0.2
        """weight of the cross-covariance loss, ω2; None: without it"""
        cross: Literal["diagonal", "whitening"] = "diagonal"
        """CCL draws the diagonal of the cross-covariance to 1, or the whole matrix to the identity"""
        features: tuple[str, ...] = ("norm0", "norm1", "norm2")
        normalise: bool = False
        """instance-normalise the maps here (Eq. 1): for models that do not have such norms inside"""
        view: str = AUGMENTED
        """what learns; the original view is what it learns from"""
        name: str = "covariance"

        def __post_init__(self) -> None:
            super().__post_init__()
            self.terms()

        def terms(self) -> dict[str, float]:
            return term_weights(self, cml=self.cml, ccl=self.ccl)

    config: Config

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__(config, model)
        for feature in config.features:
            feature_channels(model, feature)  # says what the model has instead
        self.weights = config.terms()

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        config = self.config
        learning, fixed = self.prediction(outputs), outputs[ORIGINAL]
        per_image: dict[str, list[Tensor]] = {term: [] for term in self.weights}
        for feature in config.features:
            maps = as_matrices(feature_map(self.name, learning, feature), config.normalise)
            targets = as_matrices(feature_map(self.name, fixed, feature).detach(), config.normalise)
            if maps.shape != targets.shape:
                raise ValueError(
                    f"objective {self.name!r} compares views of one geometry; {feature!r} has {list(maps.shape)} "
                    f"(images, channels, pixels) in {config.view!r} and {list(targets.shape)} in {ORIGINAL!r}"
                )
            if "cml" in per_image:
                difference = self_covariance(maps) - self_covariance(targets)
                per_image["cml"].append(difference.square().mean((1, 2)))
            if "ccl" in per_image:
                per_image["ccl"].append(self._cross_loss(targets, maps))
        terms = list(self.weights)
        sums = torch.stack([torch.stack(per_image[term]).mean(0).sum() for term in terms])
        images = constant(len(batch.draws), sums.device)
        losses = across_ranks.mean(sums, images, context.group).unbind()
        self._metrics = {f"{term}_unweighted": loss.detach() for term, loss in zip(terms, losses, strict=True)}
        return {
            f"{self.name}/{term}": weighted(loss, self.weights[term]) for term, loss in zip(terms, losses, strict=True)
        }

    def _cross_loss(self, targets_NCP: Tensor, maps_NCP: Tensor) -> Tensor:
        """[N]."""
        pixels = max(maps_NCP.shape[2] - 1, 1)
        with torch.autocast(maps_NCP.device.type, enabled=False):
            if self.config.cross == "diagonal":  # which needs no matrix
                diagonal_NC = (targets_NCP[:, :, None] @ maps_NCP[..., None]).flatten(1) / pixels + EPS
                return (diagonal_NC - 1).square().mean(1)
            covariance_NCC = targets_NCP @ maps_NCP.mT / pixels
        identity = torch.eye(maps_NCP.shape[1], device=maps_NCP.device, dtype=maps_NCP.dtype)
        return (covariance_NCC + (EPS - 1) * identity).square().mean((1, 2))


def as_matrices(map_NCHW: Tensor, normalise: bool) -> Tensor:
    """[N, C, P], not narrower than float32: covariances are sums over a hundred thousand pixels."""
    map_NCHW = map_NCHW.to(torch.float64 if map_NCHW.dtype == torch.float64 else torch.float32)
    if normalise:
        map_NCHW = instance_norm(map_NCHW)
    return map_NCHW.flatten(2)


def self_covariance(map_NCP: Tensor) -> Tensor:
    """[N, C, C], for losses whose gradient G by it is symmetric: (G + Gᵀ)·map is then 2·G·map, and the backward pass
    has one matrix product where differentiating both factors has two."""
    pixels = max(map_NCP.shape[2] - 1, 1)
    with torch.autocast(map_NCP.device.type, enabled=False):
        half = map_NCP @ map_NCP.detach().mT / pixels
    covariance = 2 * half - half.detach() if half.requires_grad else half
    return covariance + EPS * torch.eye(half.shape[1], device=half.device, dtype=half.dtype)


def term_weights(config: Objective.Config, **weights: float | None) -> dict[str, float]:
    """Of the terms that are wanted, times the weight of all."""
    wanted = {term: weight for term, weight in weights.items() if weight is not None}
    if not wanted:
        raise ValueError(f"objective {config.name!r} has neither of its terms {' and '.join(weights)}: leave it out")
    for term, weight in wanted.items():
        if not weight > 0:
            raise ValueError(
                f"{term} of objective {config.name!r} must be positive, or None for without; it is {weight}"
            )
    return {term: config.weight * weight for term, weight in wanted.items()}
