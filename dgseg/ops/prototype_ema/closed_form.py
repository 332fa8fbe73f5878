"""The update p' = d·p + Σ w·f̂ around two functions, which the reference and the kernels both provide.

Every cell (class, granularity) has a decay d and each of its n pixels a scalar weight w:

    first sight (updates = 0)    d = 0      w = 1/n
    batch_mean                   d = m      w = (1-m)/n
    pixel                        d = mⁿ     w = (1-m)·m^rank, rank 0 being the newest pixel
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dgseg.ops import across_ranks

# Pixels whose weight is below this share of the newest one's are left out: their features need not be read.
NEGLIGIBLE = 1e-12


class Functions(NamedTuple):
    ranks: Callable[..., tuple[Tensor, Tensor]]  # reference.ranks_reference or its kernel
    weighted_sums: Callable[..., Tensor]  # reference.weighted_sums_reference or its kernel


def rank_limit(momentum: float) -> int:
    """How many of a cell's newest pixels weigh anything in mode "pixel"; ranks are int32."""
    if momentum == 0.0:
        return 1
    if momentum == 1.0:
        return 0
    return min(math.ceil(math.log(NEGLIGIBLE) / math.log(momentum)) + 1, 2**31 - 1)


def update_(
    functions: Functions,
    prototypes: Tensor,
    updates: Tensor,
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    *,
    momentum: float,
    mode: str,
    nested: bool,
    seed: int,
    step: int,
    sample_ids: Tensor | None,
    group: dist.ProcessGroup | None,
) -> None:
    with torch.no_grad():
        classes, granularities, _ = prototypes.shape
        by_pixel = mode == "pixel"
        limit = rank_limit(momentum) if by_pixel else 0
        if sample_ids is None:
            sample_ids = _positions(labels, group if limit else None)
        counts, ranks = functions.ranks(labels, bands, sample_ids, seed, step, classes, granularities, nested, limit)
        local_counts, pixels = counts, labels.numel()
        if group is not None:
            counts = across_ranks.total(counts, group)
        first = (updates == 0) & (counts > 0)
        fades = ~first if by_pixel else torch.zeros_like(first)
        if group is not None and limit:
            from dgseg.ops.prototype_ema.exchange import global_ranks

            pixels = int(counts.max())
            ranks = global_ranks(
                ranks, local_counts, fades, labels, bands, sample_ids, seed, step, nested, limit, group
            )
        n = counts.clamp(min=1).double()
        share = torch.ones_like(n) if by_pixel else 1 / n
        scales = torch.where(first, 1 / n, (1 - momentum) * share)
        powers = momentum ** torch.arange(min(limit, pixels), dtype=torch.float64, device=labels.device)
        sums = functions.weighted_sums(features.detach(), labels, bands, ranks, scales, fades, powers, nested)
        if group is not None:
            sums = across_ranks.total(sums, group)
        decay = momentum**n if by_pixel else torch.full_like(n, momentum)
        # What an unseen prototype holds must not matter, not even NaN: hence no decay of 0.
        moved = torch.where(first[..., None], sums, decay[..., None] * prototypes + sums)
        prototypes.copy_(torch.where((counts > 0)[..., None], moved, prototypes))
        updates += counts if by_pixel else (counts > 0)


def _positions(labels: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Positions in the global batch: the ranks' batches one after the other."""
    own = torch.arange(labels.shape[0], device=labels.device)
    if group is None:
        return own
    sizes = torch.zeros(group.size(), dtype=torch.long, device=labels.device)
    sizes[group.rank()] = labels.shape[0]
    return own + across_ranks.total(sizes, group)[: group.rank()].sum()
