"""boundary_bands in plain torch, written from its definition."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def boundary_bands_reference(
    labels: Tensor,
    radii: Sequence[int],
    *,
    stride: int = 1,
    size: Sequence[int] | None = None,
    ignore_index: int = 255,
) -> Tensor:
    N, H, W = labels.shape
    h, w = size if size is not None else (-(-H // stride), -(-W // stride))
    rows = torch.arange(h, device=labels.device) * H // h if size is not None else torch.arange(0, H, stride)
    columns = torch.arange(w, device=labels.device) * W // w if size is not None else torch.arange(0, W, stride)
    sampled = labels[:, rows.to(labels.device)][:, :, columns.to(labels.device)].long()
    bands = torch.zeros((N, h, w), dtype=torch.uint8, device=labels.device)
    if bands.numel() == 0:
        return bands
    valid = sampled != ignore_index
    # Dense ranks of the values keep any integer exact in float64, which max_pool2d needs.
    rank = torch.unique(sampled, return_inverse=True)[1].double()
    none = float("-inf")
    for band in reversed(range(len(radii))):
        r = radii[band]
        biggest = _window_maximum(torch.where(valid, rank, none), r)
        smallest = -_window_maximum(torch.where(valid, -rank, none), r)
        bands[valid & (biggest > smallest)] = band + 1
    return bands


def _window_maximum(values: Tensor, radius: int) -> Tensor:
    """Maximum over (2r+1)² windows cut off at the image border: rows first, then columns."""
    for dim in (-1, -2):
        r = min(radius, values.shape[dim])  # max_pool2d wants padding <= kernel / 2; a larger window sees no more
        kernel, padding = ((1, 2 * r + 1), (0, r)) if dim == -1 else ((2 * r + 1, 1), (r, 0))
        values = F.max_pool2d(values[:, None], kernel, stride=1, padding=padding)[:, 0]
    return values
