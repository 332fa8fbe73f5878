"""Confusion counts of a label map against the argmax of (upsampled) logits, for IoU and accuracy."""

import torch
from torch import Tensor

from dgseg.ops import _backends, _checks
from dgseg.ops.segmentation_counts.reference import segmentation_counts_reference

_MOST_CLASSES = 4096

_backends.LIBRARY.define("segmentation_counts(Tensor logits, Tensor labels, int ignore_index) -> Tensor")
_backends.serve("segmentation_counts", "cpu", "native", _backends.native_library("cpu"))
_backends.serve("segmentation_counts", "cuda", "cuda", _backends.native_library("cuda"))


@torch.library.register_fake("dgseg::segmentation_counts")
def _fake(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    C = logits.shape[1]
    return logits.new_empty((C, C + 1), dtype=torch.int64)


@_backends.with_reference(segmentation_counts_reference)
def segmentation_counts(logits: Tensor, labels: Tensor, *, num_classes: int, ignore_index: int = 255) -> Tensor:
    """How many pixels of every class were predicted as every class.

    Args:
        logits: [N, C, h, w] at label size or below: bilinearly upsampled inside (align_corners=False), never stored.
            The prediction is the class of the largest value; the smallest class among equals; NaN is largest.
        labels: [N, H, W], uint8, int32 or int64, classes or `ignore_index`.
        num_classes: C.
        ignore_index: pixels of this label are not counted.

    Returns:
        int64 [C, C+1]: rows truth, columns prediction. The last column counts void predictions on valid pixels: an
        argmax never is void, so it is zero here and exists so that counts of different sources add up.
    """
    _checks.check_tensor("logits", logits, "N C h w", _checks.FLOAT_DTYPES)
    _checks.check_tensor("labels", labels, "N H W", _checks.LABEL_DTYPES)
    _checks.check_same_device(logits=logits, labels=labels)
    N, C, h, w = logits.shape
    H, W = labels.shape[1:]
    if labels.shape[0] != N:
        raise ValueError(f"logits hold {N} images, labels {labels.shape[0]}: give both the same batch")
    if num_classes != C:
        raise ValueError(f"logits hold {C} classes, but num_classes={num_classes}: they must agree")
    if not 1 <= C <= _MOST_CLASSES:
        raise ValueError(f"num_classes must be 1 to {_MOST_CLASSES}; got {num_classes}")
    if h > H or w > W:
        raise ValueError(
            f"logits of {h}x{w} are larger than labels of {H}x{W}: downsample the logits, or give labels at full size"
        )
    if (h == 0 or w == 0) and H * W > 0:
        raise ValueError(f"logits of shape {list(logits.shape)} hold no pixel to upsample from")
    if not _backends.compiled("segmentation_counts", logits.device):
        return segmentation_counts_reference(logits, labels, num_classes=num_classes, ignore_index=ignore_index)
    if labels.device.type != "cpu" and _backends.debug():
        _checks.check_label_values(labels, C, ignore_index)
    counts: Tensor = torch.ops.dgseg.segmentation_counts(logits.detach(), labels, ignore_index)
    return counts
