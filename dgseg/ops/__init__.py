"""Fused torch operators: tensors in, tensors out. Each folder holds one, with its reference and its maths."""

from dgseg.ops._backends import backends
from dgseg.ops.boundary_bands import boundary_bands
from dgseg.ops.segmentation_counts import segmentation_counts

__all__ = ["backends", "boundary_bands", "segmentation_counts"]
