"""Fused torch operators: tensors in, tensors out. Each folder holds one, with its reference and its maths."""

from dgseg.ops._backends import backends
from dgseg.ops.boundary_bands import boundary_bands
from dgseg.ops.entropy_weighted_cross_entropy import entropy_weighted_cross_entropy

__all__ = ["backends", "boundary_bands", "entropy_weighted_cross_entropy"]
