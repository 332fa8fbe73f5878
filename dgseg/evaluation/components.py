"""Component-level scores of out-of-distribution masks, as SegmentMeIfYouCan's benchmark computes them.

Components are 8-connected. sIoU of a true component k: |k ∩ K'| / |(k ∪ K') \\ A|, where K' is the union of the
predicted components that touch k, and A its pixels inside other true components: two neighbours found as one are not
punished for it. PPV of a predicted component: the share of its pixels inside true components. At a threshold τ a true
component is found if sIoU ≥ τ, a predicted one is false if PPV < τ; F1 is averaged over τ = .25, .30, …, .75.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgseg.data.labels import VOID
from dgseg.evaluation.maps import check_outside
from dgseg.evaluation.tally import Tally

THRESHOLDS = np.linspace(0.25, 0.75, 11)

# Fractions are summed as whole multiples of 2^-40, so that sums agree to the last digit in any order.
_UNIT = 1 << 40


@dataclass(frozen=True)
class Sizes:
    """Predicted components of fewer pixels are dropped; smaller true ones become void, and what lies on them."""

    predicted: int
    true: int


ANOMALY_TRACK = Sizes(predicted=500, true=100)  # the benchmark's, of large anomalies anywhere


@dataclass(frozen=True)
class ComponentResult:
    """NaN: no component to average over."""

    siou: float  # mean over true components
    ppv: float  # mean over predicted components
    f1: float  # mean over thresholds
    f1_at: dict[float, float]
    true_components: int
    predicted_components: int


class ComponentScores(Tally):
    """counts: per threshold how many true components were found and how many predicted ones are false."""

    def __init__(self, sizes: Sizes = ANOMALY_TRACK) -> None:
        n = len(THRESHOLDS)
        counts = {"found": (n,), "false": (n,), "components": (2,), "fractions": (2,)}
        super().__init__(counts, {"predicted": sizes.predicted, "true": sizes.true})
        self.sizes = sizes

    def update(self, predicted: Tensor, outside: Tensor) -> None:
        """predicted bool [N, H, W]: what is called unknown, usually `above(scores, result.best_threshold)` with the
        threshold of the whole data set's OodScores, as the benchmark does. outside [N, H, W]: 0 inside, 1 outside,
        255 void."""
        check_outside(outside)
        if predicted.dtype.is_floating_point or predicted.shape != outside.shape:
            raise ValueError(
                f"predicted must be bool and like the map, {list(outside.shape)}; it is {predicted.dtype} "
                f"{list(predicted.shape)}: compare scores with a threshold first"
            )
        for mask, image in zip(predicted.cpu().numpy() != 0, outside.cpu().numpy(), strict=True):
            siou, ppv = component_scores(mask, image, self.sizes)
            self.counts["found"] += _at_least(siou)
            self.counts["false"] += len(ppv) - _at_least(ppv)
            for place, values in enumerate((siou, ppv)):
                self.counts["components"][place] += len(values)
                self.counts["fractions"][place] += int(np.rint(values * _UNIT).sum())

    def result(self) -> ComponentResult:
        true, predicted = self.counts["components"].tolist()
        siou, ppv = (
            total / _UNIT / number if number else float("nan")
            for total, number in zip(self.counts["fractions"].tolist(), (true, predicted), strict=True)
        )
        f1 = {}
        counted = zip(THRESHOLDS.tolist(), self.counts["found"].tolist(), self.counts["false"].tolist(), strict=True)
        for threshold, found, false in counted:
            every = 2 * found + (true - found) + false
            f1[round(threshold, 2)] = 2 * found / every if every else float("nan")
        return ComponentResult(siou, ppv, sum(f1.values()) / len(f1), f1, true, predicted)


def component_scores(
    predicted: npt.NDArray[np.bool_], outside: npt.NDArray[np.integer], sizes: Sizes
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """One image: sIoU of every true component, PPV of every predicted one."""
    connected = _labelling()
    true, _ = connected(outside == 1)
    found, _ = connected(predicted & (outside != VOID))

    found[np.bincount(found.ravel())[found] < sizes.predicted] = 0
    # The background counts as a component here, as in the benchmark: one that is this small is void too.
    counted = (outside != VOID) & (np.bincount(true.ravel())[true] >= sizes.true)
    true, found = true[counted], found[counted]

    # overlap[k, j]: pixels that true component k and predicted component j share; 0 is "none" on both sides.
    columns = int(found.max(initial=0)) + 1
    pairs = true.astype(np.int64) * columns + found
    overlap = np.bincount(pairs, minlength=(int(true.max(initial=0)) + 1) * columns).reshape(-1, columns)
    sizes_true, sizes_found = overlap.sum(1), overlap.sum(0)
    shared = overlap[1:, 1:]
    touching = shared > 0
    intersection = shared.sum(1)
    in_others = touching @ shared.sum(0) - intersection
    union = touching @ sizes_found[1:] + sizes_true[1:] - intersection - in_others
    there, kept = sizes_true[1:] > 0, sizes_found[1:] > 0
    return intersection[there] / union[there], shared.sum(0)[kept] / sizes_found[1:][kept]


def _at_least(values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy((values >= THRESHOLDS[:, None]).sum(1))


def _labelling() -> Any:
    try:
        from scipy.ndimage import label
    except ImportError:
        raise ImportError("component scores need scipy: pip install 'dgseg[evaluation]'") from None
    eight = np.ones((3, 3), int)
    return lambda mask: label(mask, eight)
