"""What the ranks tell each other once a step: loss terms, the losses of single images, and who wants to stop.

One small collective for all of it, so that whatever the step decides (is the loss finite, what does the hardness
sampler learn, does anybody want to stop) is decided alike everywhere.
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
class Seen:
    """Of one step, over all ranks."""

    step: int
    terms: dict[str, float]  # means over the ranks
    finite: bool
    stop: bool
    indices: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]


class Posted:
    """On its way; `wait` gives it. A GPU goes on working meanwhile."""

    def __init__(self, step: int, names: Sequence[str], images: int, values: Tensor) -> None:
        self.step, self.names, self.images = step, tuple(names), images
        self.ids: list[str] = []
        self._ready: torch.cuda.Event | None = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record()
            values = host
        self._values = values

    def wait(self) -> Seen:
        if self._ready is not None:
            self._ready.synchronize()
        values = self._values.numpy()  # [ranks, terms + 1 + 3 · images]
        count = len(self.names)
        terms = values[:, :count].mean(0)
        images = values[:, count + 1 :].reshape(len(values), 3, self.images)
        return Seen(
            step=self.step,
            terms=dict(zip(self.names, terms.tolist(), strict=True)),
            finite=bool(np.isfinite(values[:, :count]).all()),
            stop=bool(values[:, count].any()),
            indices=images[:, 0].reshape(-1).astype(np.int64),
            losses=images[:, 1].reshape(-1),
            valid=images[:, 2].reshape(-1) > 0,
        )


def post(
    world: World,
    step: int,
    terms: dict[str, Tensor],
    stop: bool,
    indices: Tensor,
    images: ImageLosses | None,
) -> Posted:
    """indices [N] of this rank's images; images: their losses, or None where no objective scores whole images."""
    device = next(iter(terms.values())).device
    count = len(indices) if images is not None else 0
    flat = torch.stack([term.detach().to(torch.float64) for term in terms.values()])
    parts = [flat, constant([float(stop)], device, dtype=torch.float64)]
    if images is not None:
        parts += [indices.to(device, torch.float64), images.losses.to(torch.float64), images.valid.to(torch.float64)]
    values = torch.cat(parts)
    return Posted(step, list(terms), count, across_ranks.gather(values, world.group))
