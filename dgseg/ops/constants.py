"""Small constants that are filled where they are needed.

`torch.tensor(values, device="cuda")` copies from the host, and the host then waits until the device has finished all
that was queued: the next step cannot be prepared meanwhile, and no CUDA graph can record it. A fill is one launch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(
    values: float | Sequence[float], device: torch.device | str, *, dtype: torch.dtype | None = None
) -> Tensor:
    """What torch.tensor(values, device=device, dtype=dtype) holds: 0-d for a number, else [len(values)]."""
    if isinstance(values, int | float):
        return torch.full((), values, dtype=dtype, device=device)
    if not values:
        return torch.empty(0, dtype=dtype, device=device)
    return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])
