"""prototype_ema_ in plain torch: the closed form of the update, and the two functions that the kernels replace."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.ops.prototype_ema.closed_form import Functions, update_
from dgseg.ops.prototype_ema.order import cell_indices, pixel_keys


def prototype_ema_reference(
    prototypes: Tensor,
    updates: Tensor,
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    *,
    momentum: float = 0.99,
    mode: str = "batch_mean",
    nested: bool = False,
    seed: int = 0,
    step: int = 0,
    sample_ids: Tensor | None = None,
    group: torch.distributed.ProcessGroup | None = None,
) -> None:
    update_(
        REFERENCE,
        prototypes, updates, features, labels, bands,
        momentum=momentum, mode=mode, nested=nested, seed=seed, step=step, sample_ids=sample_ids, group=group,
    )  # fmt: skip


def ranks_reference(
    labels: Tensor,
    bands: Tensor,
    sample_ids: Tensor,
    seed: int,
    step: int,
    classes: int,
    granularities: int,
    nested: bool,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """How many pixels feed each cell, int64 [C, G], and every pixel's rank there, int32 [slots, N, h, w]: 0 is the
    newest, -1 stands for none and for limit and beyond. Limit 0 asks for the counts alone: there are no slots then."""
    N, h, w = labels.shape
    slots = cell_indices(labels, bands, classes, granularities, nested)
    counts = torch.zeros(classes * granularities, dtype=torch.long, device=labels.device)
    all_cells = torch.arange(classes * granularities + 1, device=labels.device)
    order = pixel_keys(sample_ids, seed, step, h, w).flatten().argsort(stable=True) if limit > 0 else None
    ranks = []
    for cells in slots:
        sorted_cells, by_cell = (cells if order is None else cells[order]).sort(stable=True)
        ends = torch.searchsorted(sorted_cells, all_cells[1:])
        counts += ends - torch.searchsorted(sorted_cells, all_cells[:-1])
        if order is None:
            continue
        last = F.pad(ends, (0, 1))[sorted_cells] - 1
        rank = last - torch.arange(len(cells), device=cells.device)
        rank = torch.where((sorted_cells < classes * granularities) & (rank < limit), rank, -1)
        ranks.append(torch.empty_like(rank, dtype=torch.int32).scatter_(0, order[by_cell], rank.int()))
    counts = counts.view(classes, granularities)
    if order is None:
        return counts, torch.empty((0, N, h, w), dtype=torch.int32, device=labels.device)
    return counts, torch.stack(ranks).view(len(slots), N, h, w)


def pixel_weights(cells: Tensor, ranks: Tensor, scales: Tensor, fades: Tensor, powers: Tensor) -> Tensor:
    """float64 [slots, pixels]: scales[cell], times powers[rank] where fades[cell]; 0 for no cell."""
    weights = F.pad(scales.flatten(), (0, 1))[cells]
    if len(ranks) == 0:
        return weights
    ranks = ranks.flatten(1).long()
    fading = F.pad(fades.flatten(), (0, 1))[cells]
    faded = F.pad(powers, (0, 1))[torch.where((ranks >= 0) & (ranks < len(powers)), ranks, len(powers))]
    return torch.where(fading, weights * faded, weights)


def weighted_sums_reference(
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    ranks: Tensor,
    scales: Tensor,
    fades: Tensor,
    powers: Tensor,
    nested: bool,
) -> Tensor:
    """float64 [C, G, D]: per cell, the sum of weight * normalised feature (see pixel_weights)."""
    classes, granularities = scales.shape
    D = features.shape[1]
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    rows = F.normalize(features.to(dtype), dim=1).permute(0, 2, 3, 1).reshape(-1, D)
    slots = cell_indices(labels, bands, classes, granularities, nested)
    sums = torch.zeros(classes * granularities + 1, D, dtype=dtype, device=features.device)
    for cells, weights in zip(slots, pixel_weights(slots, ranks, scales, fades, powers), strict=True):
        # A weight of 0 leaves the pixel out, whatever its feature holds.
        used = torch.where(weights != 0, cells, classes * granularities)
        sums.index_add_(0, used, rows * weights.to(dtype)[:, None])
    return sums[:-1].view(classes, granularities, D).double()


REFERENCE = Functions(ranks_reference, weighted_sums_reference)


def check_values(labels: Tensor, bands: Tensor, classes: int, granularities: int) -> None:
    """Raises for the first band or label that names no cell. Reads the values: for references and DGSEG_DEBUG=1."""
    # csrc/prototype_ema/torch.cpp words the CPU kernel's errors the same way.
    labels, bands = labels.long(), bands.long()  # a number above 255 wraps when compared with uint8
    wrong = (bands < 0) | (bands > granularities)
    if bool(wrong.any()):
        at = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"bands hold {int(bands[at])} at batch index {at[0]}; valid: 0 (no band) to {granularities}, "
            f"one per granularity of prototypes"
        )
    wrong = (bands > 0) & ((labels < 0) | (labels >= classes))
    if bool(wrong.any()):
        at = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"labels hold {int(labels[at])} at batch index {at[0]} inside a band; valid: 0 to {classes - 1}: "
            f"map raw ids to train ids first, or give such pixels band 0"
        )
