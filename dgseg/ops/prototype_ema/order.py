"""Which prototype a pixel feeds, and the pseudo-random order in which the pixels of a prototype follow each other."""

import torch
from torch import Tensor


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


GOLDEN, MIX_1, MIX_2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _absorb(state: Tensor, number: Tensor) -> Tensor:
    """A Weyl step per number, then the splitmix64 finaliser, in wrapping int64; as in csrc/prototype_ema/order.h."""
    z = state + (number + 1) * GOLDEN
    z = (z ^ _shifted(z, 30)) * MIX_1
    z = (z ^ _shifted(z, 27)) * MIX_2
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, places: int) -> Tensor:
    return (z >> places) & ((1 << (64 - places)) - 1)  # torch shifts in copies of the sign; a logical shift has none


def pixel_keys(sample_ids: Tensor, seed: int, step: int, height: int, width: int) -> Tensor:
    """int64 [N, height * width], 0 to 2^63 - 1: pixels update their prototype in ascending order of these."""
    state = torch.zeros_like(sample_ids)
    state = _absorb(state, torch.full_like(sample_ids, seed))
    state = _absorb(state, torch.full_like(sample_ids, step))
    state = _absorb(state, sample_ids)
    pixels = torch.arange(height * width, device=sample_ids.device)
    return _shifted(_absorb(state[:, None], pixels), 1)


def cell_indices(labels: Tensor, bands: Tensor, classes: int, granularities: int, nested: bool) -> Tensor:
    """int64 [slots, pixels]: the cell, class * granularities + granularity, that a pixel feeds, or classes *
    granularities for none. One slot, or with nested one per granularity."""
    labels, bands = labels.long().flatten(), bands.long().flatten()
    valid = (bands > 0) & (bands <= granularities) & (labels >= 0) & (labels < classes)
    none = classes * granularities
    if not nested:
        return torch.where(valid, labels * granularities + bands - 1, none)[None]
    thickness = torch.arange(granularities, device=labels.device)[:, None]
    return torch.where(valid & (thickness >= bands - 1), labels * granularities + thickness, none)
