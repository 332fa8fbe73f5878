"""Multi-scale class-boundary bands of a label map (GAP's granularities and UBE's boundary region)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dgseg.ops import _backends, _checks
from dgseg.ops.boundary_bands.reference import boundary_bands_reference

_backends.LIBRARY.define(
    "boundary_bands(Tensor labels, int[] radii, int stride, SymInt[]? size, int ignore_index) -> Tensor"
)
_backends.serve("boundary_bands", "cpu", "native", _backends.native_library("cpu"))
_backends.serve("boundary_bands", "cuda", "cuda", _backends.native_library("cuda"))


@torch.library.register_fake("dgseg::boundary_bands")
def _fake(labels: Tensor, radii: list[int], stride: int, size: list[int] | None, ignore_index: int) -> Tensor:
    N, H, W = labels.shape
    h, w = size if size is not None else ((H + stride - 1) // stride, (W + stride - 1) // stride)
    return labels.new_empty((N, h, w), dtype=torch.uint8)


@_backends.with_reference(boundary_bands_reference)
def boundary_bands(
    labels: Tensor,
    radii: Sequence[int],
    *,
    stride: int = 1,
    size: Sequence[int] | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """For every pixel, the thinnest of several boundary bands that holds it.

    Args:
        labels: [N, H, W], uint8, int32 or int64.
        radii: increasing, at least 1; band b is the pixels whose (2·radii[b]+1)² window holds more than one class.
        stride: labels are sampled at (i·stride, j·stride) first, and radii count sampled pixels.
        size: instead of a stride, sample to this height and width (nearest: row ⌊i·H/h⌋).
        ignore_index: these pixels are in no band and count for nobody's window; neither does the outside.

    Returns:
        uint8 [N, ⌈H/stride⌉, ⌈W/stride⌉] or [N, *size]: 0 = in no band or ignored, b+1 = band b is the thinnest.
    """
    _checks.check_tensor("labels", labels, "N H W", _checks.LABEL_DTYPES)
    if isinstance(radii, int) or any(int(r) != r for r in radii):
        raise ValueError(f"radii must be a sequence of whole numbers, such as (1, 2, 4); got {radii!r}")
    radii = [int(r) for r in radii]
    if not 1 <= len(radii) <= 254:
        raise ValueError(f"radii must hold 1 to 254 numbers; got {len(radii)}")
    if radii[0] < 1 or any(b <= a for a, b in pairwise(radii)):
        raise ValueError(f"radii must be increasing and at least 1, such as (1, 2, 4); got {tuple(radii)}")
    if stride < 1 or int(stride) != stride:
        raise ValueError(f"stride must be at least 1, and whole; got {stride}")
    if size is not None:
        if stride != 1:
            raise ValueError("give either stride or size, not both")
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size must be (height, width), each at least 1; got {tuple(size)}")
        if labels.shape[1] == 0 or labels.shape[2] == 0:
            raise ValueError(f"labels of shape {list(labels.shape)} hold no pixel to sample from")
    if not _backends.compiled("boundary_bands", labels.device):
        return boundary_bands_reference(labels, radii, stride=stride, size=size, ignore_index=ignore_index)
    return torch.ops.dgseg.boundary_bands(labels, radii, stride, size, ignore_index)
