"""What the metrics take: logits at the model's resolution, label maps, and how they meet at the labels' size."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.data.labels import OUT_OF_DISTRIBUTION, VOID

# Upsampled logits of about this many values are in memory at a time.
_STRIP_VALUES = 1 << 20


def void_unlabelled(labels: Tensor) -> Tensor:
    """254 (out-of-distribution) has no class to be right about: it counts as void."""
    assert OUT_OF_DISTRIBUTION | 1 == VOID
    return labels | (labels == OUT_OF_DISTRIBUTION)


def outside_map(labels: Tensor) -> Tensor:
    """What out-of-distribution metrics read, from labels that name classes: 0 inside, 1 outside (254), 255 void. Data
    sets that name no classes bring such a map of their own: Sample.extra["out_of_distribution"]."""
    check_labels(labels)
    outside = (labels == OUT_OF_DISTRIBUTION).to(torch.uint8)
    return outside.masked_fill_(labels == VOID, VOID)


def check_outside(outside: Tensor) -> None:
    check_labels(outside, "the out-of-distribution map")
    if bool(((outside != 0) & (outside != 1) & (outside != VOID)).any()):
        raise ValueError(
            "the out-of-distribution map must hold 0 (inside), 1 (outside) and 255 (void) alone; of a label map take "
            "outside_map(labels)"
        )


def check_logits(logits: Tensor, labels: Tensor, num_classes: int | None = None) -> None:
    if logits.dim() != 4 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating [N, C, h, w]; they are {logits.dtype} {list(logits.shape)}")
    check_labels(labels)
    if logits.shape[0] != labels.shape[0]:
        raise ValueError(f"logits hold {logits.shape[0]} images, labels {labels.shape[0]}: give both the same batch")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise ValueError(f"logits hold {logits.shape[1]} classes, this counts {num_classes}")
    if 0 in logits.shape and labels.numel() > 0:
        raise ValueError(f"logits of shape {list(logits.shape)} hold nothing to predict with")
    if logits.numel() > 0 and bool(logits.amax().isnan()):
        image = int(logits.flatten(1).isnan().any(1).nonzero()[0])
        raise ValueError(f"logits hold NaN at batch index {image}: a model that computes NaN has no score")


def check_labels(labels: Tensor, name: str = "labels") -> None:
    if labels.dim() != 3 or labels.dtype not in (torch.uint8, torch.int32, torch.int64):
        raise ValueError(
            f"{name} must be uint8, int32 or int64 [N, H, W]; they are {labels.dtype} {list(labels.shape)}"
        )


def check_pair(predicted: Tensor, labels: Tensor) -> None:
    if predicted.shape != labels.shape:
        raise ValueError(
            f"predictions of shape {list(predicted.shape)} and labels of shape {list(labels.shape)}: bring the "
            "predictions to the labels' size first"
        )


def as_bytes(labels: Tensor, name: str) -> Tensor:
    """Label maps as uint8; values outside 0 to 255 are refused instead of wrapped."""
    check_labels(labels, name)
    if labels.dtype == torch.uint8 or labels.numel() == 0:
        return labels.to(torch.uint8)
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high > 255:
        raise ValueError(f"{name} hold {low if low < 0 else high}; valid: classes, 254 and 255: map raw ids first")
    return labels.to(torch.uint8)


def strips(logits: Tensor, size: tuple[int, int]) -> Iterator[tuple[int, slice, Tensor]]:
    """(image, rows, logits [C, rows, W] in float32) of bilinearly upsampled (align_corners=False) logits, a few rows at
    a time: what F.interpolate makes of the whole, in memory that depends on neither height nor batch."""
    count, classes, h, _ = logits.shape
    height, width = size
    rows_at_once = max(1, _STRIP_VALUES // max(1, classes * width))
    for image in range(count):
        for top in range(0, height, rows_at_once):
            rows = slice(top, min(top + rows_at_once, height))
            yield image, rows, _upsampled_rows(logits[image].float(), rows, height, width, h)


def _upsampled_rows(logits: Tensor, rows: slice, height: int, width: int, h: int) -> Tensor:
    if logits.shape[1:] == (height, width):
        return logits[:, rows]
    at = (torch.arange(rows.start, rows.stop, device=logits.device, dtype=torch.float32) + 0.5) * (h / height) - 0.5
    at = at.clamp(0, h - 1)
    above = at.floor().long()
    below = (above + 1).clamp(max=h - 1)
    mixed = torch.lerp(logits[:, above], logits[:, below], (at - above)[:, None])
    # The heights agree: this interpolates along the rows alone.
    size = (mixed.shape[1], width)
    return F.interpolate(mixed[None], size=size, mode="bilinear", align_corners=False)[0]


def predicted_labels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [N, H, W]: the class of the largest upsampled logit."""
    labels = torch.empty((logits.shape[0], *size), dtype=torch.uint8, device=logits.device)
    for image, rows, upsampled in strips(logits, size):
        labels[image, rows] = upsampled.max(0).indices.to(torch.uint8)  # torch's argmax takes thrice as long
    return labels
