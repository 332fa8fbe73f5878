"""What the ranks exchange once a step: loss terms, the losses of single images, and whether a rank wants to stop.

One small collective for all of it, so that every rank decides alike whether the loss is finite, what the hardness
sampler learns and whether the run stops.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgseg.objectives.base import ImageLosses
from dgseg.ops import across_ranks
from dgseg.ops.constants import constant
from dgseg.training.world import World


@dataclass(frozen=True)
class StepTotals:
    """Of one step, over all ranks."""

    step: int
    terms: dict[str, float]  # means over the ranks
    finite: bool
    stop: bool
    indices: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]


class PendingExchange:
    """On its way: `wait` returns the totals. A GPU computes meanwhile."""

    def __init__(self, step: int, names: Sequence[str], ids: list[str], images: int, values: Tensor) -> None:
        self.step, self.names, self.ids, self.images = step, tuple(names), ids, images
        self._ready: torch.cuda.Event | None = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record()
            values = host
        self._values = values

    def wait(self) -> StepTotals:
        if self._ready is not None:
            self._ready.synchronize()
        values = self._values.numpy()  # [ranks, terms + 1 + 3 · images]
        count = len(self.names)
        terms = values[:, :count].mean(0)
        images = values[:, count + 1 :].reshape(len(values), 3, self.images)
        return StepTotals(
            step=self.step,
            terms=dict(zip(self.names, terms.tolist(), strict=True)),
            finite=bool(np.isfinite(values[:, :count]).all()),
            stop=bool(values[:, count].any()),
            indices=images[:, 0].reshape(-1).astype(np.int64),
            losses=images[:, 1].reshape(-1),
            valid=images[:, 2].reshape(-1) > 0,
        )


def start(
    world: World,
    step: int,
    terms: dict[str, Tensor],
    stop: bool,
    ids: list[str],
    indices: Tensor,
    images: ImageLosses | None,
) -> PendingExchange:
    """ids and indices [N] of this rank's images; images: their losses, or None where no objective scores whole ones."""
    device = next(iter(terms.values())).device
    count = len(indices) if images is not None else 0
    flat = torch.stack([term.detach().to(torch.float64) for term in terms.values()])
    parts = [flat, constant([float(stop)], device, dtype=torch.float64)]
    if images is not None:
        parts += [indices.to(device, torch.float64), images.losses.to(torch.float64), images.valid.to(torch.float64)]
    values = torch.cat(parts)
    return PendingExchange(step, list(terms), ids, count, across_ranks.gather(values, world.group))
