"""Does a model know when it is wrong: confidence against accuracy, and entropy where it is right and where not."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgseg.data.labels import VOID
from dgseg.evaluation.maps import as_bytes, check_logits, strips, void_unlabelled
from dgseg.evaluation.tally import Tally

Floats = npt.NDArray[np.float64]

BINS = 15

# Confidences and entropies are summed as whole multiples of these, so that sums agree to the last digit in any order;
# 2^-24 is what fp32 resolves just below 1. 2^39 pixels fit.
_CONFIDENCE_UNIT = 1 << 24
_ENTROPY_UNIT = 1 << 20


@dataclass(frozen=True)
class CalibrationResult:
    """Bins are equally wide in confidence; NaN: an empty bin."""

    ece: float  # expected calibration error: mean over pixels of |confidence - accuracy| of their bin
    largest_gap: float
    confidence: Floats  # mean per bin
    accuracy: Floats
    pixels: npt.NDArray[np.int64]
    entropy_right: float  # mean, in nats
    entropy_wrong: float


class Calibration(Tally):
    """counts["bins"] is [3, bins]: pixels, right ones, sum of confidences. counts["entropy"] is [2, 2]: wrong and
    right pixels, and the sums of their entropies."""

    def __init__(self, bins: int = BINS, *, device: torch.device | str = "cpu") -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1; got {bins}")
        super().__init__({"bins": (3, bins), "entropy": (2, 2)}, {"bins": bins}, device)
        self.bins = bins

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """logits [N, C, h, w] are upsampled a few rows at a time; labels [N, H, W], 254 and 255 do not count."""
        check_logits(logits, labels)
        labels = void_unlabelled(as_bytes(labels, "labels"))
        if labels.numel():
            beyond = labels.masked_fill(labels == VOID, 0).amax()
            if int(beyond) >= logits.shape[1]:
                raise ValueError(f"labels hold {int(beyond)}, logits {logits.shape[1]} classes: map raw ids first")
        size = (labels.shape[1], labels.shape[2])
        for image, rows, upsampled in strips(logits, size):
            truth = labels[image, rows].flatten()
            valid = (truth != VOID).to(torch.int64)
            log_p = upsampled.flatten(1).log_softmax(0)
            best, predicted = log_p.max(0)
            confidence = best.exp_()
            right = (predicted == truth).to(torch.int64)
            entropy = -(log_p.exp() * log_p).nansum(0)  # 0 · log 0 is 0
            place = (confidence * self.bins).to(torch.int64).clamp_(max=self.bins - 1)
            self._sum("bins", place, valid, right * valid, _whole(confidence, _CONFIDENCE_UNIT) * valid)
            self._sum("entropy", right, valid, _whole(entropy, _ENTROPY_UNIT) * valid)

    def _sum(self, name: str, place: Tensor, *values: Tensor) -> None:
        total = torch.zeros_like(self.counts[name], device=place.device)
        for row, value in enumerate(values):
            total[row].scatter_add_(0, place, value)
        self.counts[name] += total.to(self.device)

    def result(self) -> CalibrationResult:
        pixels, right, confidences = self.counts["bins"].cpu().numpy()
        counted = int(pixels.sum())
        there = pixels > 0
        nothing = np.full(self.bins, np.nan)
        accuracy = np.divide(right, pixels, out=nothing.copy(), where=there)
        confidence = np.divide(confidences / _CONFIDENCE_UNIT, pixels, out=nothing.copy(), where=there)
        gap = np.abs(accuracy - confidence)[there]
        (wrong, found), (entropy_wrong, entropy_right) = self.counts["entropy"].tolist()
        return CalibrationResult(
            ece=float((gap * pixels[there]).sum() / counted) if counted else math.nan,
            largest_gap=float(gap.max()) if counted else math.nan,
            confidence=confidence,
            accuracy=accuracy,
            pixels=pixels,
            entropy_right=entropy_right / _ENTROPY_UNIT / found if found else math.nan,
            entropy_wrong=entropy_wrong / _ENTROPY_UNIT / wrong if wrong else math.nan,
        )


def entropy_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """float32 [N, H, W] in 0 to 1: entropy of the softmax of the upsampled logits over its largest value, log C."""
    count, classes = logits.shape[:2]
    if classes < 2:
        raise ValueError("entropy needs at least two classes")
    entropy = torch.empty((count, *size), device=logits.device)
    for image, rows, upsampled in strips(logits, size):
        log_p = upsampled.log_softmax(0)
        entropy[image, rows] = -(log_p.exp() * log_p).nansum(0) / math.log(classes)
    return entropy


def _whole(values: Tensor, unit: int) -> Tensor:
    return (values * unit).round_().to(torch.int64)  # units are powers of two: the product is exact
