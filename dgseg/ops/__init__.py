"""Fused torch operators: tensors in, tensors out. Each folder holds one, with its reference and its maths."""

from dgseg.ops._backends import backends
from dgseg.ops.boundary_bands import boundary_bands
from dgseg.ops.prototype_info_nce import prototype_info_nce

__all__ = ["backends", "boundary_bands", "prototype_info_nce"]
