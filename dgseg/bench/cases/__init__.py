"""operator -> its cases: the inputs of every benchmark and the peers that it races."""

from dgseg.bench.case import Builder
from dgseg.bench.cases import (
    boundary_bands,
    entropy_weighted_cross_entropy,
    focal_dice,
    prototype_ema,
    prototype_info_nce,
    segmentation_counts,
)

CASES: dict[str, list[Builder]] = {
    "boundary_bands": boundary_bands.CASES,
    "entropy_weighted_cross_entropy": entropy_weighted_cross_entropy.CASES,
    "focal_dice": focal_dice.CASES,
    "prototype_info_nce": prototype_info_nce.CASES,
    "prototype_ema_": prototype_ema.CASES,
    "segmentation_counts": segmentation_counts.CASES,
}
