"""Is a generated object there, and where the label map says? A segmenter is shown the pasted object's box alone; what
it finds must be the pasted outline. A trained model may be asked besides whether the object looks unknown to it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dgseg.data.sample import Box

Image = npt.NDArray[np.uint8]  # [H, W, 3]
Mask = npt.NDArray[np.bool_]  # [H, W]
Segmenter = Callable[[Image, Box], Mask]
Scorer = Callable[[Image], npt.NDArray[np.floating]]  # [H, W], higher: more unknown

_LEVELS = 24  # of each channel
_ROUNDS = 4


@dataclass(frozen=True)
class Verdict:
    good: bool
    iou: float | None = None  # of the worst object; None: nobody looked
    score: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Filter:
    segmenter: Segmenter | None = None
    """None: every outline is believed"""
    least_iou: float = 0.7
    """of what the segmenter finds with what was pasted; it must be more"""
    scorer: Scorer | None = None
    """None: no model is asked"""
    least_score: float = 0.0
    """mean over the objects' pixels"""

    def __post_init__(self) -> None:
        if not 0 <= self.least_iou < 1:
            raise ValueError(f"least_iou is at least 0 and below 1, as an IoU must be more; it is {self.least_iou}")
        if math.isnan(self.least_score):
            raise ValueError("least_score is NaN, which no score is below")

    def __call__(self, image: Image, objects: npt.NDArray[np.uint8]) -> Verdict:
        """objects [H, W]: 0, or the number of the object that was pasted there."""
        if not objects.any():
            return Verdict(True)
        iou = score = None
        if self.segmenter is not None:
            iou = min(self._iou(self.segmenter, image, objects == number) for number in np.unique(objects[objects > 0]))
            if iou <= self.least_iou:
                return Verdict(False, iou, None, f"IoU {iou:.2f}, wanted more than {self.least_iou:g}")
        if self.scorer is not None:
            score = float(self.scorer(image)[objects > 0].mean())
            if not score >= self.least_score:  # NaN is no opinion that lets pass
                return Verdict(False, iou, score, f"mean anomaly score {score:.3g}, wanted {self.least_score:g}")
        return Verdict(True, iou, score)

    def _iou(self, segmenter: Segmenter, image: Image, pasted: Mask) -> float:
        found = segmenter(image, box_of(pasted))
        if found.shape != pasted.shape:
            raise ValueError(f"the segmenter gave a mask {found.shape} for an image {pasted.shape}")
        found = found != 0  # 0 and 255 are a mask, too
        return float((found & pasted).sum() / (found | pasted).sum())


def box_of(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1))


def by_colour(image: Image, box: Box) -> Mask:
    """The pixels of the box whose colours are more frequent in the object than around it, the object being the whole
    box at first. Needs no weights, and believes in objects of colours of their own alone: photographs want a learned
    segmenter."""
    height, width = image.shape[:2]
    margin = max(4, max(box.height, box.width) // 4)
    rows = slice(max(0, box.top - margin), box.top + box.height + margin)
    columns = slice(max(0, box.left - margin), box.left + box.width + margin)
    inside = np.zeros((height, width), bool)
    inside[box.top : box.top + box.height, box.left : box.left + box.width] = True
    inside = inside[rows, columns]
    # Noise is no colour of its own.
    bins = (_smoothed(image[rows, columns].astype(np.float32)) * (_LEVELS / 256)).astype(np.int64)
    colours = (bins[..., 0] * _LEVELS + bins[..., 1]) * _LEVELS + bins[..., 2]
    object_ = inside
    for _ in range(_ROUNDS):
        own, around = (_frequencies(colours[of]) for of in (object_, ~object_))
        probability = (own + 1e-9) / (own + around + 2e-9)
        object_ = (_smoothed(probability[colours]) > 0.5) & inside
        if not object_.any():
            break
    found = np.zeros((height, width), bool)
    found[rows, columns] = object_
    return found


def _frequencies(colours: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Of every colour and its neighbours, per pixel."""
    counts = np.bincount(colours, minlength=_LEVELS**3).reshape(_LEVELS, _LEVELS, _LEVELS)
    padded = np.pad(counts.astype(np.float64), 1)
    for axis in range(3):
        low, middle, high = (padded.take(range(at, _LEVELS + at), axis) for at in range(3))
        padded = low + 2 * middle + high
    return np.asarray(padded.ravel() / max(1.0, float(padded.sum())), np.float64)


def _smoothed(pixels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The mean of 3x3."""
    padded = np.pad(pixels.astype(np.float64), [(1, 1), (1, 1)] + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9, np.float64)
