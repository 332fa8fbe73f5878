"""AUROC, AP and FPR@95 of out-of-distribution scores over any number of pixels, in one megabyte.

Scores are rounded to fp16 and counted in 65,536 bins per side. The results are exactly scikit-learn's on the rounded
scores. Rounding keeps the order and only makes ties, so the bins also say how far the unrounded scores' results can be
from these: `OodResult.interval` holds them for certain. fp16 is finest near 0: where the interval is too wide, subtract
a constant from all scores, which changes no result.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgseg.data.labels import VOID
from dgseg.evaluation.maps import check_outside
from dgseg.evaluation.tally import Tally

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 1 << 16
_PLUS_ZERO = 1 << 15
LARGEST = 65504.0  # of fp16
RECALL = 0.95
METRICS = ("auroc", "ap", "fpr95")


@dataclass(frozen=True)
class Curves:
    """One point per distinct score, highest first."""

    thresholds: Floats
    true_positive_rate: Floats  # recall
    false_positive_rate: Floats
    precision: Floats


@dataclass(frozen=True)
class OodResult:
    """auroc: NaN without pixels of both kinds. ap: NaN without an out-of-distribution pixel (scikit-learn warns and
    says 0). fpr95: false positive rate at the highest threshold that finds 95 %; 1 if none does, NaN without an
    in-distribution pixel."""

    auroc: float
    ap: float
    fpr95: float
    threshold95: float  # score >= this finds 95 %
    best_f1: float  # over all thresholds
    best_threshold: float  # score >= this is best_f1
    positives: int
    negatives: int
    interval: dict[str, tuple[float, float]]  # metric -> where its value on the unrounded scores lies


class OodScores(Tally):
    """Rows of counts["scores"]: in-distribution, out-of-distribution; columns: fp16 values, lowest first."""

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        super().__init__({"scores": (2, BINS)}, {}, device)

    def update(self, scores: Tensor, outside: Tensor) -> None:
        """scores [N, H, W], higher = more unknown; the upsampling is the caller's. outside [N, H, W]: 0 inside, 1
        outside, 255 void."""
        _check(scores, outside)
        bins = _order(_rounded(scores.flatten()))
        # Void goes to a third row, which is dropped: cheaper than picking the valid pixels.
        bins += outside.flatten().to(bins).clamp_(max=2).mul_(BINS)
        found = torch.bincount(bins, minlength=3 * BINS).view(3, BINS)[:2]
        found[:, _PLUS_ZERO] += found[:, _PLUS_ZERO - 1]  # both zeros are one value
        found[:, _PLUS_ZERO - 1] = 0
        self.counts["scores"] += found.to(self.device)

    @property
    def positives(self) -> int:
        """Pixels that are out of distribution."""
        return int(self.counts["scores"][1].sum())

    def curves(self) -> Curves:
        positives, negatives, values = self._used()
        tp, fp = positives.cumsum(), negatives.cumsum()
        nothing = np.full(len(values), np.nan)
        return Curves(
            thresholds=values,
            true_positive_rate=tp / tp[-1] if len(tp) and tp[-1] else nothing,
            false_positive_rate=fp / fp[-1] if len(fp) and fp[-1] else nothing,
            precision=tp / np.maximum(tp + fp, 1),
        )

    def result(self) -> OodResult:
        """A ValueError if no pixel was counted."""
        positives, negatives, values = self._used()
        if not len(values):
            raise ValueError("no pixel was scored: no image came, or all is void")
        return _result(positives, negatives, values)

    def _used(self) -> tuple[Ints, Ints, Floats]:
        """Outside and inside pixels of every score that occurs, and these scores, highest first."""
        negatives, positives = self.counts["scores"].cpu().numpy()
        used = np.flatnonzero(negatives + positives)[::-1]
        return positives[used], negatives[used], _VALUES[used]


def ood_metrics(scores: Tensor, outside: Tensor) -> OodResult:
    """All at once, for pixels that are in memory: see OodScores.update."""
    tally = OodScores(device=scores.device)
    tally.update(scores, outside)
    return tally.result()


def exact_metrics(scores: Tensor, outside: Tensor) -> OodResult:
    """The same without rounding (in float64, sorting all pixels): what the rounded results deviate from."""
    _check(scores, outside)
    valid = outside != VOID
    positive = (outside[valid] == 1).cpu().numpy()
    values, where = np.unique(scores[valid].double().cpu().numpy(), return_inverse=True)
    if not len(values):
        raise ValueError("no pixel was scored: all is void")
    positives = np.bincount(where[positive], minlength=len(values))[::-1]
    negatives = np.bincount(where[~positive], minlength=len(values))[::-1]
    return _result(positives, negatives, values[::-1])


def deviation(scores: Tensor, outside: Tensor) -> dict[str, float]:
    """metric -> rounded minus exact, on these pixels."""
    rounded, exact = ood_metrics(scores, outside), exact_metrics(scores, outside)
    return {name: getattr(rounded, name) - getattr(exact, name) for name in METRICS}


def above(scores: Tensor, threshold: float) -> Tensor:
    """Which pixels a threshold of OodResult calls unknown: bool, like scores."""
    return _rounded(scores).double() >= threshold


def _check(scores: Tensor, outside: Tensor) -> None:
    check_outside(outside)
    if not scores.is_floating_point() or scores.shape != outside.shape:
        raise ValueError(
            f"scores must be floating and like the map, {list(outside.shape)}; they are {scores.dtype} "
            f"{list(scores.shape)}: upsample them first"
        )
    if scores.numel() and bool(scores.amax().isnan()):
        raise ValueError(f"scores hold NaN at {scores.isnan().nonzero()[0].tolist()}: NaN has no place in an order")


def _rounded(scores: Tensor) -> Tensor:
    rounded = scores.half()
    overflown = rounded.isinf() & scores.isfinite()
    if bool(overflown.any()):
        raise ValueError(
            f"scores reach {float(scores[overflown][0]):g}, fp16 ends at {LARGEST:g}: divide them by a constant, which "
            "changes no result"
        )
    return rounded


def _order(scores: Tensor) -> Tensor:
    """fp16 -> int32 0 to 65,535 in the same order, -0 just before +0."""
    bits = scores.view(torch.int16).to(torch.int32)
    # A negative number's magnitude counts downwards.
    return (bits ^ ((bits >> 15) & 0x7FFF)).add_(_PLUS_ZERO)


def _values() -> Floats:
    """The fp16 value of every place of `_order`; places of NaN patterns are never used."""
    bits = np.arange(BINS)
    patterns = np.where(bits < _PLUS_ZERO, 0xFFFF - bits, bits - _PLUS_ZERO).astype(np.uint16)
    return patterns.view(np.float16).astype(np.float64)


_VALUES = _values()


def _result(positives: Ints, negatives: Ints, values: Floats) -> OodResult:
    """From the counts per distinct score, highest score first."""
    tp, fp = positives.cumsum(dtype=np.int64), negatives.cumsum(dtype=np.int64)
    P, N = int(tp[-1]), int(fp[-1])
    tp_before, fp_before = tp - positives, fp - negatives
    nan = float("nan")

    auroc, auroc_slack = nan, 0.0
    if P and N:
        # Pairs in which the positive is higher, ties counted half.
        auroc = float(np.sum(positives * (N - fp + negatives / 2.0))) / P / N
        auroc_slack = float(np.sum(positives * (negatives / 2.0))) / P / N

    found = int(np.searchsorted(tp / P, RECALL)) if P else len(tp)
    fpr95, fpr95_low, fpr95_high, threshold95 = 1.0, 1.0, 1.0, nan
    if P:
        threshold95 = float(values[found])
        if N:
            fpr95, fpr95_low, fpr95_high = fp[found] / N, fp_before[found] / N, fp[found] / N
    if not N:
        fpr95 = fpr95_low = fpr95_high = nan

    ap = ap_low = ap_high = best_f1 = best_threshold = nan
    if P:
        ap = float(np.sum(positives * (tp / (tp + fp)))) / P
        # At best the bin's positives come first, tied; at worst its negatives do, and its positives one by one.
        there = positives > 0
        ap_high = float(np.sum(positives[there] * (tp[there] / (tp[there] + fp_before[there])))) / P
        ap_low = float(np.sum(_one_by_one(tp_before[there], positives[there], fp[there]))) / P
        f1 = 2 * tp / (tp + fp + P)
        best = int(f1.argmax())
        best_f1, best_threshold = float(f1[best]), float(values[best])

    return OodResult(
        auroc=auroc,
        ap=ap,
        fpr95=float(fpr95),
        threshold95=threshold95,
        best_f1=best_f1,
        best_threshold=best_threshold,
        positives=P,
        negatives=N,
        interval={
            "auroc": (auroc - auroc_slack, auroc + auroc_slack),
            "ap": (ap_low, ap_high),
            "fpr95": (float(fpr95_low), float(fpr95_high)),
        },
    )


def _one_by_one(before: Ints, count: Ints, false: Ints) -> Floats:
    """Σ over j = 1 … count of (before + j) / (before + j + false), by way of the harmonic numbers."""
    first = torch.from_numpy((before + false + 1).astype(np.float64))
    last = first + torch.from_numpy(count.astype(np.float64))
    harmonic: Floats = (torch.digamma(last) - torch.digamma(first)).numpy()
    return count - false * harmonic
