"""Fused torch operators: tensors in, tensors out. Each folder holds one, with its reference and its maths."""

from dgseg.ops._backends import backends
from dgseg.ops.boundary_bands import boundary_bands
from dgseg.ops.entropy_weighted_cross_entropy import entropy_weighted_cross_entropy
from dgseg.ops.focal_dice import focal_dice
from dgseg.ops.prototype_ema import prototype_ema_
from dgseg.ops.prototype_info_nce import prototype_info_nce
from dgseg.ops.segmentation_counts import segmentation_counts

__all__ = [
    "backends",
    "boundary_bands",
    "entropy_weighted_cross_entropy",
    "focal_dice",
    "prototype_ema_",
    "prototype_info_nce",
    "segmentation_counts",
]
