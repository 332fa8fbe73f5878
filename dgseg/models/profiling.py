"""What a model costs before anything is timed: parameters, FLOPs and MACs.

Two conventions, because published numbers mix them:
- FLOPs: torch.utils.flop_counter's. A multiplication and an addition are two; matrix products, convolutions and
  attention count, nothing else.
- MACs: fvcore's, which papers print as "FLOPs". A multiply-add is one; convolutions and matrix products count, and
  with them normalisations (2 an element in eval mode, 1 without affine parameters; 5 and 4 where statistics are
  computed), bilinear upsampling and grid sampling (4 an output), nearest upsampling (1 an output) and adaptive average
  pooling (1 an input). Attention's two products count here too, though fvcore passes fused attention over."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
Shape = torch.Size | list[int]


@dataclass(frozen=True)
class Parameters:
    total: int
    trainable: int
    bytes: int  # of parameters and buffers


@dataclass(frozen=True)
class Arithmetic:
    flops: int
    macs: int


def parameters(model: nn.Module) -> Parameters:
    tensors = list(model.parameters())
    return Parameters(
        total=sum(p.numel() for p in tensors),
        trainable=sum(p.numel() for p in tensors if p.requires_grad),
        bytes=sum(t.nbytes for t in [*tensors, *model.buffers()]),
    )


def _eval_norm(input: Shape, weight: Shape | None, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return prod(input) * (2 if weight else 1)


def _batch_norm(
    input: Shape, weight: Shape | None, bias: Any, mean: Any, var: Any, training: bool, *args: Any, **kwargs: Any
) -> int:
    return prod(input) * (5 if weight else 4) if training else _eval_norm(input, weight)


def _stateless_norm(input: Shape, weight: Shape | None, *args: Any, **kwargs: Any) -> int:
    return prod(input) * (5 if weight else 4)


def _layer_norm(input: Shape, shape: Any, weight: Shape | None, *args: Any, **kwargs: Any) -> int:
    return prod(input) * (5 if weight else 4)


def _per_output(count: int) -> Callable[..., int]:
    def counted(*args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return int(prod(out_shape)) * count

    return counted


def _per_input(input: Shape, *args: Any, **kwargs: Any) -> int:
    return prod(input)


def _spatial_mean(input: Shape, dim: Any = None, keepdim: bool = False, *args: Any, **kwargs: Any) -> int:
    """Pooling to one pixel reaches the dispatcher as a mean."""
    pooled = keepdim and dim is not None and len(input) == 4 and sorted(d % 4 for d in dim) == [2, 3]
    return prod(input) if pooled else 0


BESIDE_PRODUCTS: dict[Any, Callable[..., int]] = {
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit: _batch_norm,
    aten._native_batch_norm_legit_no_training: _eval_norm,
    aten.cudnn_batch_norm: _batch_norm,
    aten.native_group_norm: _stateless_norm,
    aten.native_layer_norm: _layer_norm,
    aten.upsample_bilinear2d: _per_output(4),
    aten.upsample_nearest2d: _per_output(1),
    aten.grid_sampler_2d: _per_output(4),
    aten._adaptive_avg_pool2d: _per_input,
    aten.mean: _spatial_mean,
}


@torch.no_grad()
def arithmetic(model: nn.Module, images: Tensor) -> Arithmetic:
    """Of one forward pass in the mode that the model is in; on the meta device it costs nothing."""
    counter = FlopCounterMode(display=False, custom_mapping=BESIDE_PRODUCTS)
    with counter:
        model(images)
    counts = counter.get_flop_counts()["Global"]
    beside = sum(count for operation, count in counts.items() if operation in BESIDE_PRODUCTS)
    flops = sum(counts.values()) - beside
    return Arithmetic(flops=flops, macs=flops // 2 + beside)
