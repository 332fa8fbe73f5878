"""The counts that mIoU comes from, and the scores by the conventions of the official Cityscapes evaluator.

Void in the ground truth is skipped. A void prediction on a valid pixel is a false negative of the pixel's class. A
class that is absent from the ground truth but predicted scores 0; one that is absent from both is in no mean. One table
counts all pixels of a data set: IoU is not averaged over images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgseg.data.labels import NUM_CLASSES, OUT_OF_DISTRIBUTION, VOID
from dgseg.evaluation.maps import as_bytes, check_logits, check_pair, void_unlabelled
from dgseg.evaluation.tally import Tally
from dgseg.ops import segmentation_counts

Floats = npt.NDArray[np.float64]

# SYNTHIA has no terrain, truck and train: its results are reported on the other 16 classes, or on all 19.
SYNTHIA_16 = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)


@dataclass(frozen=True)
class Scores:
    """Fractions, not percent. NaN: a class (or a whole data set) that has nothing to be scored on."""

    classes: tuple[int, ...]
    iou: Floats  # per class of `classes`
    accuracy: Floats  # per class: the share of its pixels that were found
    miou: float
    macc: float
    pixel_accuracy: float
    pixels: int  # those that were scored


class Confusion(Tally):
    """counts["pixels"] is int64 [C, C+1]: rows truth, columns prediction, the last column void predictions."""

    def __init__(self, num_classes: int = NUM_CLASSES, *, device: torch.device | str = "cpu") -> None:
        if not 1 <= num_classes <= OUT_OF_DISTRIBUTION:
            raise ValueError(f"num_classes must be 1 to {OUT_OF_DISTRIBUTION}; got {num_classes}")
        super().__init__({"pixels": (num_classes, num_classes + 1)}, {"num_classes": num_classes}, device)
        self.num_classes = num_classes

    @property
    def matrix(self) -> Tensor:
        return self.counts["pixels"]

    def update(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits [N, C, h, w] at label size or below: upsampled inside, never stored. labels [N, H, W]: classes, 254
        and 255, which do not count. Returns the counts of these images alone."""
        check_logits(logits, labels, self.num_classes)
        try:
            counts = segmentation_counts(logits, void_unlabelled(labels), num_classes=self.num_classes)
        except RuntimeError as error:
            if "map raw ids" not in str(error):
                raise
            raise ValueError(str(error)) from error  # what is wrong with labels is said, without a traceback
        return self._add(counts)

    def update_labels(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """predicted [N, H, W]: classes, or 254 and 255 for void predictions. Returns the counts of these alone."""
        return self._add(label_counts(predicted, labels, self.num_classes))

    def _add(self, counts: Tensor) -> Tensor:
        self.counts["pixels"] += counts.to(self.device)
        return counts

    def scores(self, classes: Sequence[int] | None = None, *, others: Literal["counted", "void"] = "counted") -> Scores:
        """`classes`: score these alone. others="counted": a pixel of another class that is taken for one of these is
        its false positive (mmsegmentation's way for SYNTHIA's 16 classes). others="void": such pixels are skipped, as
        by an evaluator that knows these classes only."""
        return scores(self.matrix, classes, others=others)


def label_counts(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """int64 [C, C+1] from two label maps."""
    return grouped_label_counts(predicted, labels, torch.zeros_like(labels, dtype=torch.uint8), 1, num_classes)[0]


def grouped_label_counts(
    predicted: Tensor, labels: Tensor, groups: Tensor, num_groups: int, num_classes: int
) -> Tensor:
    """int64 [num_groups, C, C+1]: a table for each group of pixels; groups is like labels, 0 to num_groups - 1."""
    check_pair(predicted, labels)
    predicted, labels = as_bytes(predicted, "predictions"), as_bytes(labels, "labels")
    # Every pair of bytes is counted, so that values which are no class show up in the table instead of in a check.
    places = ((groups.to(torch.int32) << 8).add_(labels) << 8).add_(predicted)
    table = torch.bincount(places.flatten(), minlength=num_groups << 16).view(num_groups, 256, 256)
    refuse_strangers(table.sum((0, 2)), num_classes, "labels")
    refuse_strangers(table.sum((0, 1)), num_classes, "predictions")
    valid = table[:, :num_classes]
    return torch.cat([valid[..., :num_classes], valid[..., num_classes:].sum(-1, keepdim=True)], -1)


def refuse_strangers(pixels: Tensor, num_classes: int, name: str) -> None:
    """pixels [256]: how many of every value."""
    strange = pixels[num_classes:OUT_OF_DISTRIBUTION].nonzero()
    if len(strange):
        raise ValueError(
            f"{name} hold {num_classes + int(strange[0])}; valid: 0 to {num_classes - 1}, {OUT_OF_DISTRIBUTION} "
            f"and {VOID}: map raw ids to train ids first"
        )


def iou_parts(counts: Tensor) -> npt.NDArray[np.int64]:
    """[..., C, C+1] -> [..., 3, C]: right pixels, truth's pixels, predicted pixels. All that IoU needs."""
    pixels = counts.cpu().numpy()
    right = np.diagonal(pixels, axis1=-2, axis2=-1)
    return np.stack([right, pixels.sum(-1), pixels[..., :-1].sum(-2)], -2)


def mean_iou(parts: npt.NDArray[np.int64] | Floats) -> Floats:
    """[..., 3, C] -> [...]: the mean over the classes that occur; NaN where none does."""
    return _mean(class_iou(parts))


def class_iou(parts: npt.NDArray[np.int64] | Floats) -> Floats:
    right, truth, predicted = parts[..., 0, :], parts[..., 1, :], parts[..., 2, :]
    return _ratio(right, truth + predicted - right)


def scores(
    counts: Tensor, classes: Sequence[int] | None = None, *, others: Literal["counted", "void"] = "counted"
) -> Scores:
    num_classes = counts.shape[0]
    chosen = list(range(num_classes)) if classes is None else list(classes)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(num_classes)):
        raise ValueError(f"classes must be different numbers from 0 to {num_classes - 1}; got {chosen}")
    if others not in ("counted", "void"):
        raise ValueError(f'others must be "counted" or "void"; got {others!r}')
    if others == "void":
        # Predictions of other classes stay in the rows' sums: they are void predictions, hence false negatives.
        keep = torch.zeros(num_classes, 1, dtype=counts.dtype, device=counts.device)
        keep[chosen] = 1
        counts = counts * keep
    parts = iou_parts(counts)[:, chosen]
    right, truth, _ = parts
    iou, accuracy = class_iou(parts), _ratio(right, truth)
    pixels = int(truth.sum())
    return Scores(
        classes=tuple(chosen),
        iou=iou,
        accuracy=accuracy,
        miou=float(_mean(iou)),
        macc=float(_mean(accuracy)),
        pixel_accuracy=int(right.sum()) / pixels if pixels else float("nan"),
        pixels=pixels,
    )


def _ratio(part: npt.NDArray[np.int64] | Floats, whole: npt.NDArray[np.int64] | Floats) -> Floats:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _mean(values: Floats) -> Floats:
    """Over the last axis, without its NaNs; np.nanmean warns where there is nothing left."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(-1), there.sum(-1))
