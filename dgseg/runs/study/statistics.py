"""What several seeds say about a difference.

Runs that share a seed share their data order and their initial weights, so their differences are taken seed by seed
(paired) when both sides have the same seeds; otherwise the sides are independent samples of unequal variance (Welch).
Both are Student's t intervals of a mean over seeds. They know the noise of training again, not that of which images
were scored: `dgseg compare-models` has that one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Literal

from scipy.special import stdtrit

Method = Literal["paired", "Welch", "none"]


@dataclass(frozen=True)
class Summary:
    mean: float
    std: float | None  # of a sample; None: fewer than two seeds
    seeds: int


@dataclass(frozen=True)
class SeedDifference:
    """Of two means over seeds, with its interval; none of fewer than two seeds on a side."""

    mean: float
    low: float | None
    high: float | None
    method: Method
    seeds: int  # of the side that has fewer
    lower_is_better: bool = False

    @property
    def beyond_noise(self) -> bool | None:
        """None: nobody knows."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> str:
        if self.beyond_noise is None:
            return "no verdict: fewer than 2 seeds"
        if not self.beyond_noise:
            return "within noise"
        return "better, beyond noise" if (self.mean > 0) != self.lower_is_better else "worse, beyond noise"


def summary(values: Sequence[float]) -> Summary:
    return Summary(fmean(values), math.sqrt(variance(values)) if len(values) > 1 else None, len(values))


def difference(values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95) -> SeedDifference:
    """values and baseline: seed -> score, neither empty."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}")
    mean = fmean(values.values()) - fmean(baseline.values())
    fewest = min(len(values), len(baseline))
    if fewest < 2:
        return SeedDifference(mean, None, None, "none", fewest)
    method: Method = "paired" if values.keys() == baseline.keys() else "Welch"
    if method == "paired":
        error = math.sqrt(variance([values[seed] - baseline[seed] for seed in values]) / len(values))
        freedom = len(values) - 1.0
    else:
        of_values, of_baseline = (variance(side.values()) / len(side) for side in (values, baseline))
        error = math.sqrt(of_values + of_baseline)
        # Shares of the whole, because squares of tiny variances vanish.
        a, b = (of_values / error**2, of_baseline / error**2) if error else (1.0, 0.0)
        freedom = 1 / (a**2 / (len(values) - 1) + b**2 / (len(baseline) - 1))
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return SeedDifference(mean, mean - half, mean + half, method, fewest)
