"""Activation checkpointing of one stage: its activations are computed again in the backward pass instead of kept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextmanager
def _still_statistics(module: nn.Module) -> Iterator[None]:
    """The recomputation sees the same batch a second time; running statistics must not."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # not track_running_stats = False: the two passes must save the same tensors
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def checkpointed(module: nn.Module, *inputs: Any) -> Any:
    if torch.compiler.is_compiling():  # the compiler decides by itself what runs twice, and buffers change once
        return checkpoint(module, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _still_statistics(module)

    return checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts)
