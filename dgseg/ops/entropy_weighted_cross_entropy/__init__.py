"""Cross-entropy that weighs the pixels of a boundary band by how uncertain the model is there (FLEX-Seg's UBE)."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dgseg.ops import _backends, _checks, across_ranks
from dgseg.ops.entropy_weighted_cross_entropy.reference import (
    EntropyWeightedLoss,
    entropy_weighted_cross_entropy_reference,
)

# Three operators, because the weights need the mean and deviation of the whole band, on all ranks, before any pixel
# can be weighted: per-pixel maps and their moments; then (after the ranks' moments are gathered) the loss; then the
# gradient, from the logits again. README.md has the maths.
_SCHEMAS = {
    "entropy_weighted_ce_pixels": "(Tensor logits, Tensor labels, Tensor? bands, int ignore_index) -> "
    "(Tensor log_sum_exp, Tensor entropy, Tensor cross_entropy, Tensor moments)",
    "entropy_weighted_ce_loss": "(Tensor logits, Tensor labels, Tensor? bands, Tensor? class_weight, "
    "Tensor log_sum_exp, Tensor entropy, Tensor cross_entropy, Tensor moments, float alpha, int weighting, "
    "float threshold, float eps, int denominator, int ignore_index) -> "
    "(Tensor loss, Tensor weights, Tensor per_image, Tensor band_entropy)",
    "entropy_weighted_ce_backward": "(Tensor grad_loss, Tensor logits, Tensor labels, Tensor log_sum_exp, "
    "Tensor weights, int ignore_index) -> Tensor",
}
for _name, _schema in _SCHEMAS.items():
    _backends.LIBRARY.define(_name + _schema)
_backends.serve("entropy_weighted_cross_entropy", "cpu", "native", _backends.native_operators("cpu", *_SCHEMAS))
_backends.serve(
    "entropy_weighted_cross_entropy", "cuda", "triton", None if _backends.has_triton() else "triton is not installed"
)

WEIGHTINGS = ("entropy", "fixed", "threshold")  # the operators know them by index
DENOMINATORS = ("valid", "all")


def _cuda_pixels(
    logits: Tensor, labels: Tensor, bands: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from dgseg.ops.entropy_weighted_cross_entropy import triton  # imported on first use: it takes half a second

    with torch.cuda.device_of(logits):
        return triton.pixels(logits, labels, bands, ignore_index)


def _cuda_loss(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from dgseg.ops.entropy_weighted_cross_entropy import triton

    with torch.cuda.device_of(args[0]):
        return triton.loss(*args)


def _cuda_backward(*args: Any) -> Tensor:
    from dgseg.ops.entropy_weighted_cross_entropy import triton

    with torch.cuda.device_of(args[1]):
        return triton.backward(*args)


if _backends.has_triton():
    for _name, _function in zip(_SCHEMAS, (_cuda_pixels, _cuda_loss, _cuda_backward), strict=True):
        _backends.LIBRARY.impl(_name, _function, "CUDA")


def _compute_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


@torch.library.register_fake("dgseg::entropy_weighted_ce_pixels")
def _fake_pixels(
    logits: Tensor, labels: Tensor, bands: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = _compute_dtype(logits)
    log_sum_exp, cross_entropy = (logits.new_empty(labels.shape, dtype=dtype) for _ in range(2))
    entropy = logits.new_empty(labels.shape if bands is not None else (0,), dtype=dtype)
    return log_sum_exp, entropy, cross_entropy, logits.new_empty(5, dtype=torch.float64)


@torch.library.register_fake("dgseg::entropy_weighted_ce_loss")
def _fake_loss(logits: Tensor, labels: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = _compute_dtype(logits)
    shapes: tuple[Any, ...] = ((), labels.shape, labels.shape[:1], ())
    loss, weights, per_image, band_entropy = (logits.new_empty(shape, dtype=dtype) for shape in shapes)
    return loss, weights, per_image, band_entropy


@torch.library.register_fake("dgseg::entropy_weighted_ce_backward")
def _fake_backward(grad_loss: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, labels, _bands, _class_weight, log_sum_exp = inputs[:5]
    _loss, weights, per_image, band_entropy = output
    ctx.mark_non_differentiable(weights, per_image, band_entropy)
    ctx.save_for_backward(logits, labels, log_sum_exp, weights)
    ctx.ignore_index = inputs[-1]


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "entropy_weighted_cross_entropy has no second derivative: call backward without create_graph=True, "
            "or set DGSEG_BACKEND=reference"
        )
    gradient = torch.ops.dgseg.entropy_weighted_ce_backward(grad_loss, *ctx.saved_tensors, ctx.ignore_index)
    return gradient, *([None] * 13)


torch.library.register_autograd("dgseg::entropy_weighted_ce_loss", _backward, setup_context=_setup_context)


def _check(
    logits: Tensor,
    labels: Tensor,
    bands: Tensor | None,
    alpha: float,
    weighting: str,
    threshold: float | None,
    eps: float,
    class_weight: Tensor | None,
    denominator: str,
) -> None:
    _checks.check_logits_and_labels(logits, labels)
    if bands is not None:
        _checks.check_tensor("bands", bands, "N H W", (torch.uint8,))
        _checks.check_shape("bands", bands, labels.shape, "labels")
    if class_weight is not None:
        _checks.check_class_weight(class_weight, logits)
    _checks.check_same_device(logits=logits, labels=labels, bands=bands, class_weight=class_weight)
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}; got {weighting!r}")
    if denominator not in DENOMINATORS:
        raise ValueError(f"denominator must be one of {', '.join(DENOMINATORS)}; got {denominator!r}")
    # Comparisons, because torch.compile cannot trace math.isfinite for a number that changes between calls.
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be finite and at least 0; got {alpha}")
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be finite and above 0, or a band of equal entropies divides 0 by 0; got {eps}")
    if (threshold is not None) != (weighting == "threshold"):
        raise ValueError(
            f'threshold belongs to weighting="threshold": give both or neither; '
            f"got threshold={threshold} with weighting={weighting!r}"
        )
    if threshold is not None and threshold != threshold:
        raise ValueError("threshold must be a cross-entropy, such as -log of a confidence; got nan")


@_backends.with_reference(entropy_weighted_cross_entropy_reference)
def entropy_weighted_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    bands: Tensor | None,
    *,
    alpha: float = 3.0,
    weighting: str = "entropy",
    threshold: float | None = None,
    eps: float = 1e-6,
    ignore_index: int = 255,
    class_weight: Tensor | None = None,
    denominator: str = "valid",
    group: dist.ProcessGroup | None = None,
) -> EntropyWeightedLoss:
    """Cross-entropy with the pixels of a boundary band weighted up.

    Args:
        logits: [N, C, h, w] at the labels' size or below: upsampled inside (bilinear, align_corners=False), and the
            upsampled logits never exist in memory.
        labels: [N, H, W], uint8, int32 or int64.
        bands: [N, H, W] uint8, above 0 inside the band (`boundary_bands` makes them); None = plain cross-entropy.
        alpha: the strength of the weighting.
        weighting: "entropy": 1 + alpha·sigmoid((H − mean)/(deviation + eps)) of the pixel's entropy H, with mean and
            deviation over the band; "fixed": alpha; "threshold": alpha where the pixel's cross-entropy exceeds
            `threshold` (for a confidence t, give −log t). 1 everywhere else. Weights have no gradient.
        eps: keeps a band of equal entropies finite.
        ignore_index: pixels with this label have no loss, no gradient and no say in the statistics.
        class_weight: [C], multiplies each pixel's loss by its class's weight; the denominator stays a pixel count.
        denominator: divide the sum by the number of "valid" pixels, or by "all" (ignored ones too).
        group: statistics and denominator span these ranks, and the loss is world_size · local sum / denominator:
            its average over the ranks is the loss of the whole batch. None = this process alone.

    Returns:
        EntropyWeightedLoss(loss, per_image, band_entropy); the gradient flows through `loss` alone.
    """
    _check(logits, labels, bands, alpha, weighting, threshold, eps, class_weight, denominator)
    if not _backends.compiled("entropy_weighted_cross_entropy", logits.device):
        return entropy_weighted_cross_entropy_reference(
            logits,
            labels,
            bands,
            alpha=alpha,
            weighting=weighting,
            threshold=threshold,
            eps=eps,
            ignore_index=ignore_index,
            class_weight=class_weight,
            denominator=denominator,
            group=group,
        )
    if logits.device.type != "cpu" and _backends.debug():
        _checks.check_label_values(labels, logits.shape[1], ignore_index)
    if class_weight is not None:
        class_weight = class_weight.to(_compute_dtype(logits)).contiguous()
    log_sum_exp, entropy, cross_entropy, moments = torch.ops.dgseg.entropy_weighted_ce_pixels(
        logits.detach(), labels, bands, ignore_index
    )
    loss, _weights, per_image, band_entropy = torch.ops.dgseg.entropy_weighted_ce_loss(
        logits,
        labels,
        bands,
        class_weight,
        log_sum_exp,
        entropy,
        cross_entropy,
        across_ranks.gather(moments, group),
        alpha,
        WEIGHTINGS.index(weighting),
        0.0 if threshold is None else threshold,
        eps,
        DENOMINATORS.index(denominator),
        ignore_index,
    )
    return EntropyWeightedLoss(loss, per_image, band_entropy)
