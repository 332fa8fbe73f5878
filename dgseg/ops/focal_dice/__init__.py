"""Focal and Dice loss of (upsampled) logits from one reading of them."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dgseg.ops import _backends, _checks, across_ranks
from dgseg.ops.focal_dice.reference import FocalDice, focal_dice_reference, losses_of

# Both losses are functions of 4 C sums over pixels (README.md has the maths). The operators make these sums and take
# their gradient back to the logits; what the losses are, across ranks too, is plain torch on the sums.
_SCHEMAS = {
    "focal_dice_sums": "(Tensor logits, Tensor labels, float gamma, int ignore_index) -> "
    "(Tensor sums, Tensor log_sum_exp)",
    "focal_dice_backward": "(Tensor grad_sums, Tensor logits, Tensor labels, Tensor log_sum_exp, float gamma, "
    "int ignore_index) -> Tensor",
}
# On GPUs, where every operator of that plain torch is a launch, two kernels in its place.
_LOSSES = {
    "focal_dice_losses": "(Tensor sums, Tensor gathered, Tensor? class_weight, float smooth, ScalarType dtype) -> "
    "(Tensor focal, Tensor dice, Tensor slopes)",
    "focal_dice_through_losses": "(Tensor grad_focal, Tensor grad_dice, Tensor slopes) -> Tensor",
}
for _name, _schema in {**_SCHEMAS, **_LOSSES}.items():
    _backends.LIBRARY.define(_name + _schema)
_backends.serve("focal_dice", "cpu", "native", _backends.native_operators("cpu", *_SCHEMAS))
_backends.serve("focal_dice", "cuda", "triton", None if _backends.has_triton() else "triton is not installed")


def _cuda_sums(logits: Tensor, labels: Tensor, gamma: float, ignore_index: int) -> tuple[Tensor, Tensor]:
    from dgseg.ops.focal_dice import triton  # imported on first use: it takes half a second

    with torch.cuda.device_of(logits):
        return triton.sums(logits, labels, gamma, ignore_index)


def _cuda_backward(
    grad_sums: Tensor, logits: Tensor, labels: Tensor, log_sum_exp: Tensor, gamma: float, ignore_index: int
) -> Tensor:
    from dgseg.ops.focal_dice import triton

    with torch.cuda.device_of(logits):
        return triton.backward(grad_sums, logits, labels, log_sum_exp, gamma, ignore_index)


def _cuda_losses(sums: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    from dgseg.ops.focal_dice import triton

    with torch.cuda.device_of(sums):
        return triton.losses(sums, *arguments)


def _cuda_through_losses(*tensors: Tensor) -> Tensor:
    from dgseg.ops.focal_dice import triton

    with torch.cuda.device_of(tensors[0]):
        return triton.through_losses(*tensors)


if _backends.has_triton():
    _backends.LIBRARY.impl("focal_dice_losses", _cuda_losses, "CUDA")
    _backends.LIBRARY.impl("focal_dice_through_losses", _cuda_through_losses, "CUDA")
    _backends.LIBRARY.impl("focal_dice_sums", _cuda_sums, "CUDA")
    _backends.LIBRARY.impl("focal_dice_backward", _cuda_backward, "CUDA")


def _compute_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


@torch.library.register_fake("dgseg::focal_dice_sums")
def _fake_sums(logits: Tensor, labels: Tensor, gamma: float, ignore_index: int) -> tuple[Tensor, Tensor]:
    sums = logits.new_empty((4, logits.shape[1]), dtype=torch.float64)
    return sums, logits.new_empty(labels.shape, dtype=_compute_dtype(logits))


@torch.library.register_fake("dgseg::focal_dice_backward")
def _fake_backward(grad_sums: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


@torch.library.register_fake("dgseg::focal_dice_losses")
def _fake_losses(
    sums: Tensor, gathered: Tensor, class_weight: Tensor | None, smooth: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return sums.new_empty((), dtype=dtype), sums.new_empty((), dtype=dtype), torch.empty_like(sums)


@torch.library.register_fake("dgseg::focal_dice_through_losses")
def _fake_through_losses(grad_focal: Tensor, grad_dice: Tensor, slopes: Tensor) -> Tensor:
    return torch.empty_like(slopes)


def _setup_losses(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[2])


def _backward_losses(ctx: Any, grad_focal: Tensor, grad_dice: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return torch.ops.dgseg.focal_dice_through_losses(grad_focal, grad_dice, *ctx.saved_tensors), *([None] * 4)


torch.library.register_autograd("dgseg::focal_dice_losses", _backward_losses, setup_context=_setup_losses)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, labels, ctx.gamma, ctx.ignore_index = inputs
    _sums, log_sum_exp = output
    ctx.mark_non_differentiable(log_sum_exp)
    ctx.save_for_backward(logits, labels, log_sum_exp)


def _backward(ctx: Any, grad_sums: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "focal_dice has no second derivative: call backward without create_graph=True, "
            "or set DGSEG_BACKEND=reference"
        )
    gradient = torch.ops.dgseg.focal_dice_backward(grad_sums, *ctx.saved_tensors, ctx.gamma, ctx.ignore_index)
    return gradient, None, None, None


torch.library.register_autograd("dgseg::focal_dice_sums", _backward, setup_context=_setup_context)


def _check(logits: Tensor, labels: Tensor, gamma: float, smooth: float, class_weight: Tensor | None) -> None:
    _checks.check_logits_and_labels(logits, labels)
    if class_weight is not None:
        _checks.check_class_weight(class_weight[0] if class_weight.dim() == 2 else class_weight, logits)
        if class_weight.dim() == 2 and len(class_weight) != 2:
            raise ValueError(
                f"class_weight of two dimensions has a row for focal and one for Dice; it has {len(class_weight)}"
            )
    _checks.check_same_device(logits=logits, labels=labels, class_weight=class_weight)
    # Comparisons, because torch.compile cannot trace math.isfinite for a number that changes between calls.
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and at least 0; got {gamma}")
    if not 0 <= smooth < math.inf:
        raise ValueError(f"smooth must be finite and at least 0; got {smooth}")


@_backends.with_reference(focal_dice_reference)
def focal_dice(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.0,
    smooth: float = 1.0,
    class_weight: Tensor | None = None,
    ignore_index: int = 255,
    group: dist.ProcessGroup | None = None,
) -> FocalDice:
    """Focal loss and Dice loss, each with a gradient of its own.

    Args:
        logits: [N, C, h, w] at the labels' size or below: upsampled inside (bilinear, align_corners=False), and the
            upsampled logits never exist in memory.
        labels: [N, H, W], uint8, int32 or int64.
        gamma: of the focal loss, (1 − p)^gamma · −log p of the pixel's class, averaged over the valid pixels; 0 is
            cross-entropy.
        smooth: of the Dice loss of a class, 1 − (2·intersection + smooth) / (probability + pixels + smooth), whose
            sums run over the whole batch. Classes that no pixel of the batch has are left out of the mean.
        class_weight: [C], or [2, C]: a row for each loss. Focal: multiplies each pixel's loss by its class's weight;
            the denominator stays a pixel count. Dice: the mean over the classes is weighted.
        ignore_index: pixels with this label have no part in anything.
        group: sums and counts span these ranks, and the average over the ranks of each loss, as of its gradient, is
            that of the whole batch. None = this process alone.
    """
    _check(logits, labels, gamma, smooth, class_weight)
    if not _backends.compiled("focal_dice", logits.device):
        return focal_dice_reference(
            logits,
            labels,
            gamma=gamma,
            smooth=smooth,
            class_weight=class_weight,
            ignore_index=ignore_index,
            group=group,
        )
    if logits.device.type != "cpu" and _backends.debug():
        _checks.check_label_values(labels, logits.shape[1], ignore_index)
    sums, _log_sum_exp = torch.ops.dgseg.focal_dice_sums(logits, labels, gamma, ignore_index)
    if not logits.is_cuda:
        return losses_of(sums, class_weight, smooth, group, _compute_dtype(logits))
    gathered = across_ranks.gather(sums.flatten(), group)
    focal, dice, _slopes = torch.ops.dgseg.focal_dice_losses(
        sums, gathered, class_weight, smooth, _compute_dtype(logits)
    )
    return FocalDice(focal, dice)
