"""Is B better than A, or is it noise: a paired bootstrap over images of the difference of their mIoUs.

Both models are scored on the same resampled images, thousands of times. What is resampled is images, because pixels of
one image err together; both models keep theirs together, because an image that is hard for one is hard for both.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dgseg.evaluation.confusion import mean_iou

# One image is [3, C] (confusion.iou_parts): right, true and predicted pixels per class.
Parts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ALL = "average"
_DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Difference:
    """mIoU of B minus mIoU of A."""

    a: float
    b: float
    difference: float
    low: float  # the confidence interval
    high: float
    confidence: float
    p_value: float  # two-sided: how often a resampling contradicts the sign, twice; at least 1 / (resamples + 1)
    images: int
    resamples: int

    @property
    def beyond_noise(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    a: Mapping[str, Parts],
    b: Mapping[str, Parts],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """domain -> the difference there; of several domains also their average, whose images are resampled within each.

    a, b: domain -> int64 [images, 3, C], the same images in the same order for both."""
    if a.keys() != b.keys() or not a:
        raise ValueError(f"both models must be scored on the same domains; these are {sorted(a)} and {sorted(b)}")
    if ALL in a and len(a) > 1:
        raise ValueError(f"{ALL} is what the mean over domains is called: give the data set of that name another one")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence must lie between 0 and 1, resamples be at least 1; got {confidence}, {resamples}")
    for domain in a:
        if a[domain].shape != b[domain].shape or a[domain].ndim != 3 or a[domain].shape[1] != 3:
            raise ValueError(
                f"{domain}: both models need [images, 3, classes] of the same images; these are "
                f"{list(a[domain].shape)} and {list(b[domain].shape)}"
            )
        if not np.array_equal(a[domain][:, 1], b[domain][:, 1]):
            raise ValueError(f"{domain}: the models were scored on different images, or in different order")
        if len(a[domain]) == 0:
            raise ValueError(f"{domain}: there is no image to resample")
    found, sampled = {}, {}
    for place, domain in enumerate(a):
        rng = np.random.default_rng([seed, place])
        whole = np.array([mean_iou(parts[domain].sum(0)) for parts in (a, b)])
        draws = _resampled(a[domain], b[domain], resamples, rng)
        found[domain] = _difference(whole, draws, len(a[domain]), confidence)
        sampled[domain] = (whole, draws)
    if len(a) > 1:
        whole = np.mean([whole for whole, _ in sampled.values()], 0)
        draws = np.mean([draws for _, draws in sampled.values()], 0)
        found[ALL] = _difference(whole, draws, sum(map(len, a.values())), confidence)
    return found


def _resampled(a: Parts, b: Parts, resamples: int, rng: np.random.Generator) -> Floats:
    """[2, resamples]: the mIoU of both models on each resampling."""
    images, _, classes = a.shape
    # Sums of pixels stay below 2^53: exact in float64, and one matrix product adds up all resamplings.
    both = np.concatenate([a.reshape(images, -1), b.reshape(images, -1)], 1).astype(np.float64)
    at_once = max(1, _DRAWS_AT_ONCE // images)
    mious = []
    for begin in range(0, resamples, at_once):
        rows = min(at_once, resamples - begin)
        drawn = rng.integers(images, size=(rows, images)) + np.arange(rows)[:, None] * images
        times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        sums = (times.astype(np.float64) @ both).reshape(rows, 2, 3, classes)
        mious.append(mean_iou(sums).T)
    return np.concatenate(mious, 1)


def _difference(whole: Floats, draws: Floats, images: int, confidence: float) -> Difference:
    differences = draws[1] - draws[0]
    differences = differences[~np.isnan(differences)]  # a resampling of images that are void throughout
    if not len(differences):
        raise ValueError("no image has a labelled pixel")
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    against = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return Difference(
        a=float(whole[0]),
        b=float(whole[1]),
        difference=float(whole[1] - whole[0]),
        low=float(low),
        high=float(high),
        confidence=confidence,
        p_value=min(1.0, 2 * (against + 1) / (len(differences) + 1)),
        images=images,
        resamples=len(differences),
    )
