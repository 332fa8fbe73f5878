"""InfoNCE of boundary pixels against a bank of prototypes, one per class and band (FLEX-Seg's GAP)."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dgseg.ops import _backends, _checks, across_ranks
from dgseg.ops.prototype_info_nce.reference import check_values, prototype_info_nce_reference

# Two operators: loss sum, number of terms and each pixel's logsumexp; then the gradient, for which the similarities
# are computed again. The division by the number of terms (of all ranks) is plain torch. README.md has the maths.
#
# The forward also returns its own copy of the bank, which the backward reads: training moves the bank in place
# (prototype_ema_) between the two. A copy made outside the operator would not do: inductor drops it.
_BANK = "Tensor prototypes, Tensor weights, Tensor? seen"
_backends.LIBRARY.define(
    f"prototype_info_nce_forward(Tensor features, Tensor labels, Tensor bands, {_BANK}, float temperature, "
    "bool nested) -> (Tensor loss_sum, Tensor count, Tensor log_sum_exp, Tensor bank)"
)
_backends.LIBRARY.define(
    f"prototype_info_nce_backward(Tensor grad, Tensor features, Tensor labels, Tensor bands, {_BANK}, "
    "Tensor log_sum_exp, float temperature, bool nested) -> Tensor"
)
_backends.serve("prototype_info_nce", "cpu", "native", _backends.native_library("cpu"))
_backends.serve("prototype_info_nce", "cuda", "triton", None if _backends.has_triton() else "triton is not installed")


def _cuda_forward(features: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from dgseg.ops.prototype_info_nce import triton  # on first use: importing Triton takes half a second

    with torch.cuda.device_of(features):
        return *triton.forward(features, *arguments), arguments[2].clone()


def _cuda_backward(grad: Tensor, features: Tensor, *arguments: Any) -> Tensor:
    from dgseg.ops.prototype_info_nce import triton

    with torch.cuda.device_of(features):
        return triton.backward(grad, features, *arguments)


if _backends.has_triton():
    _backends.LIBRARY.impl("prototype_info_nce_forward", _cuda_forward, "CUDA")
    _backends.LIBRARY.impl("prototype_info_nce_backward", _cuda_backward, "CUDA")


@torch.library.register_fake("dgseg::prototype_info_nce_forward")
def _fake_forward(
    features: Tensor, labels: Tensor, bands: Tensor, prototypes: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    N, _D, h, w = features.shape
    return (
        features.new_empty((), dtype=dtype),
        features.new_empty((), dtype=torch.int64),
        features.new_empty((N, h, w), dtype=dtype),
        torch.empty_like(prototypes),
    )


@torch.library.register_fake("dgseg::prototype_info_nce_backward")
def _fake_backward(grad: Tensor, features: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(features)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    features, labels, bands, _prototypes, weights, seen, ctx.temperature, ctx.nested = inputs
    _loss_sum, count, log_sum_exp, bank = output
    ctx.mark_non_differentiable(count, log_sum_exp, bank)
    ctx.save_for_backward(features, labels, bands, bank, weights, seen, log_sum_exp)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "prototype_info_nce has no second derivative: call backward without create_graph=True, "
            "or set DGSEG_BACKEND=reference"
        )
    gradient = torch.ops.dgseg.prototype_info_nce_backward(grad, *ctx.saved_tensors, ctx.temperature, ctx.nested)
    return gradient, *([None] * 7)


torch.library.register_autograd("dgseg::prototype_info_nce_forward", _backward, setup_context=_setup_context)


def _check(
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    prototypes: Tensor,
    weights: Tensor,
    temperature: float,
    seen: Tensor | None,
) -> None:
    _checks.check_tensor("features", features, "N D h w", _checks.FLOAT_DTYPES)
    _checks.check_tensor("labels", labels, "N h w", _checks.LABEL_DTYPES)
    _checks.check_tensor("bands", bands, "N h w", (torch.uint8,))
    _checks.check_tensor("prototypes", prototypes, "C G D", _checks.FLOAT_DTYPES)
    _checks.check_tensor("weights", weights, "C G", _checks.FLOAT_DTYPES)
    if 0 in features.shape:
        raise ValueError(f"features of shape {list(features.shape)} hold nothing to learn from: skip empty batches")
    if 0 in prototypes.shape:
        raise ValueError(f"prototypes of shape {list(prototypes.shape)} are no bank: every size must be at least 1")
    N, D, h, w = features.shape
    C, G, _ = prototypes.shape
    _checks.check_shape("labels", labels, (N, h, w), "features")
    _checks.check_shape("bands", bands, (N, h, w), "features")
    _checks.check_shape("prototypes", prototypes, (C, G, D), "features")
    _checks.check_shape("weights", weights, (C, G), "prototypes")
    if seen is not None:
        _checks.check_tensor("seen", seen, "C G", (torch.bool,))
        _checks.check_shape("seen", seen, (C, G), "prototypes")
    _checks.check_same_device(
        features=features, labels=labels, bands=bands, prototypes=prototypes, weights=weights, seen=seen
    )
    for name, tensor in (("prototypes", prototypes), ("weights", weights)):
        if tensor.requires_grad:
            raise ValueError(f"{name} get no gradient here (prototype_ema_ moves the bank): pass {name}.detach()")
    if not 0 < temperature < math.inf:  # no math.isfinite: torch.compile cannot trace it for a changing number
        raise ValueError(f"temperature must be positive and finite; got {temperature}")


@_backends.with_reference(prototype_info_nce_reference)
def prototype_info_nce(
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    prototypes: Tensor,
    weights: Tensor,
    *,
    temperature: float = 0.07,
    seen: Tensor | None = None,
    nested: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Mean over band pixels of weight · −log softmax(cosine / temperature) at their own prototype.

    Args:
        features: [N, D, h, w], any float dtype and layout; gets the gradient. The maths is in float32 (or float64).
        labels: [N, h, w], uint8, int32 or int64; must be a class where bands > 0, may be anything elsewhere.
        bands: uint8 [N, h, w] as from boundary_bands: 0 = no band, b+1 = band b.
        prototypes: [C, G, D], the bank: no gradient, any length (normalised here).
        weights: [C, G], multiply the loss of the pixels of that class and band.
        seen: bool [C, G], or None: all. Unseen prototypes are in no denominator, and pixels have no term with them.
        nested: a pixel of band b has a term with the prototype of every band ≥ b of its class, not of b alone.
        group: the mean is over the terms of all its ranks: world_size × local sum / global count comes back.

    Returns:
        A scalar, float32 (or float64); zero, with a graph, where no pixel has a term.
    """
    _check(features, labels, bands, prototypes, weights, temperature, seen)
    if not _backends.compiled("prototype_info_nce", features.device):
        return prototype_info_nce_reference(
            features,
            labels,
            bands,
            prototypes,
            weights,
            temperature=temperature,
            seen=seen,
            nested=nested,
            group=group,
        )
    if features.is_cuda and _backends.debug():
        check_values(labels, bands, prototypes.shape[0], prototypes.shape[1])
    loss_sum, count, _log_sum_exp, _bank = torch.ops.dgseg.prototype_info_nce_forward(
        features, labels, bands, prototypes, weights, seen, temperature, nested
    )
    return across_ranks.mean(loss_sum, count, group)
