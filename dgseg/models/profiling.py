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
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

aten = torch.ops.aten


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


def _eval_norm(input: Tensor, weight: Tensor | None, *args: Any) -> int:
    return input.numel() * (1 if weight is None else 2)


def _statistics_norm(input: Tensor, weight: Tensor | None, *args: Any) -> int:
    return input.numel() * (4 if weight is None else 5)


def _batch_norm(
    input: Tensor, weight: Tensor | None, bias: Any, mean: Any, variance: Any, training: bool, *args: Any
) -> int:
    return _statistics_norm(input, weight) if training else _eval_norm(input, weight)


def _layer_norm(input: Tensor, shape: Any, weight: Tensor | None, *args: Any) -> int:
    return _statistics_norm(input, weight)


def _spatial_mean(input: Tensor, dim: Any = None, keepdim: bool = False, *args: Any) -> int:
    """Pooling to one pixel reaches the dispatcher as a mean."""
    pooled = keepdim and dim is not None and input.dim() == 4 and sorted(d % 4 for d in dim) == [2, 3]
    return input.numel() if pooled else 0


# Operations beside products. By their inputs:
BY_INPUTS: dict[Any, Callable[..., int]] = {
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit: _batch_norm,
    aten._native_batch_norm_legit_no_training: _eval_norm,
    aten.cudnn_batch_norm: _batch_norm,
    aten.miopen_batch_norm: _batch_norm,
    aten.native_group_norm: _statistics_norm,
    aten.native_layer_norm: _layer_norm,
    aten._adaptive_avg_pool2d: lambda input, *args: input.numel(),
    aten.mean: _spatial_mean,
}
# And so many an output:
PER_OUTPUT = {aten.upsample_bilinear2d: 4, aten.upsample_nearest2d: 1, aten.grid_sampler_2d: 4}


class _BesideProducts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in BY_INPUTS:
            self.count += BY_INPUTS[packet](*args)
        elif packet in PER_OUTPUT:
            self.count += PER_OUTPUT[packet] * output.numel()
        return output


@torch.no_grad()
def arithmetic(model: nn.Module, images: Tensor) -> Arithmetic:
    """Of one forward pass in the mode that the model is in; on the meta device it costs nothing."""
    # torch's counter does not know the CPU's attention.
    attention = {aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=attention) as products, _BesideProducts() as beside:
        model(images)
    flops = products.get_total_flops()
    return Arithmetic(flops=flops, macs=flops // 2 + beside.count)
