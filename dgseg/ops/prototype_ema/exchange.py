"""Ranks over the batches of a whole process group, from the newest few keys of every cell."""

import torch
import torch.distributed as dist
from torch import Tensor

from dgseg.ops import across_ranks
from dgseg.ops.prototype_ema.order import cell_indices, pixel_keys


def global_ranks(
    ranks: Tensor,
    counts: Tensor,
    fades: Tensor,
    labels: Tensor,
    bands: Tensor,
    sample_ids: Tensor,
    seed: int,
    step: int,
    nested: bool,
    limit: int,
    group: dist.ProcessGroup,
) -> Tensor:
    """Adds to the ranks among a process's own pixels the number of newer pixels of the other processes.

    Each process shares a table [C*G, T] of its newest keys, where T is the largest number (up to `limit`) that any
    process has of any fading cell: nobody else's older keys can come before a pixel of rank < limit.
    """
    width = torch.where(fades, counts, 0).clamp(max=limit).max()
    T = int(across_ranks.gather(width[None], group).max())
    if T == 0:
        return ranks
    classes, granularities = counts.shape
    h, w = labels.shape[1:]
    cells = cell_indices(labels, bands, classes, granularities, nested)
    local = ranks.flatten(1).long()
    keys = pixel_keys(sample_ids, seed, step, h, w).flatten().expand(local.shape)
    # Ascending rows, the newest key last; -1 in front where a cell has fewer than T. The last row takes what no
    # table has room for: pixels of no cell, of cells that do not fade, and of too high a rank.
    shared = (local >= 0) & (local < T) & (cells < classes * granularities)
    place = torch.where(shared, cells * T + (T - 1 - local), classes * granularities * T)
    table = torch.full((classes * granularities * T + 1,), -1, dtype=torch.long, device=labels.device)
    table.scatter_(0, place.flatten(), torch.where(shared, keys, -1).flatten())
    table = table[:-1].view(classes * granularities, T)
    tables = across_ranks.gather(table.flatten(), group).view(-1, *table.shape)
    newer = torch.zeros_like(table)
    for other, theirs in enumerate(tables):
        if other != group.rank():
            # Of equal keys (one sample in two processes' batches), the later process's is the newer one.
            newer += T - torch.searchsorted(theirs, table, right=other < group.rank())
    newer = torch.cat([newer.flatten(), newer.new_zeros(1)])
    total = local + newer[place]
    return torch.where(shared & (total < limit), total, -1).to(torch.int32).view_as(ranks)
