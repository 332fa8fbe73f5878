"""RobustNet's whitening losses, a baseline of BlindNet's: covariances of instance-normalised maps are drawn to 0. All
of them (IW), all but a margin (IRW), or those alone that change when the colours of an image do (ISW).

N images, C channels, P pixels of a map.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dgseg.data.augment.pipeline import AUGMENTED
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import Objective, StepContext, objective, weighted
from dgseg.objectives.covariance import as_matrices, self_covariance
from dgseg.objectives.pixels import feature_channels, feature_map
from dgseg.ops import across_ranks
from dgseg.ops.constants import constant


@objective("isw", "irw", "iw", "whitening")
class Whitening(Objective):
    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        """For a model with instance_norms="whitening". The defaults are ISW."""

        weight: float = 0.6
        kind: Literal["iw", "irw", "isw"] = "isw"
        """all covariances, those above a margin, or those that change with the colours of an image"""
        features: tuple[str, ...] = ("norm0", "norm1", "norm2")
        margin: float = 1 / 64
        """irw: of the mean absolute covariance, what is let be"""
        clusters: int = 3
        """isw: of the covariances by their variance between the views; all but the lowest cluster are drawn to 0"""
        warmup: float = 0.12
        """isw: share of the run's steps before the loss acts"""
        statistics: float = 0.02
        """isw: share of the run's steps, the last ones of the warm-up, in which the variance is measured"""
        other: str = AUGMENTED
        """isw: the view that the variance is measured against"""
        name: str = "whitening"

        def __post_init__(self) -> None:
            super().__post_init__()
            margin, clusters, warmup, statistics = self.margin, self.clusters, self.warmup, self.statistics
            if margin < 0 or clusters < 2:
                raise ValueError(f"margin must be at least 0 and clusters at least 2; they are {margin} and {clusters}")
            if not 0 < statistics <= warmup < 1:
                raise ValueError(f"give 0 < statistics <= warmup < 1, shares of the run; got {statistics} and {warmup}")

    config: Config
    pairs: Tensor  # int64 []: images that the variances have been measured on

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__(config, model)
        channels = {feature: feature_channels(model, feature) for feature in config.features}
        if config.kind == "isw":
            self.register_buffer("pairs", torch.zeros((), dtype=torch.int64))
            for feature, C in channels.items():
                self.register_buffer(f"variance_{feature}", torch.zeros(C, C))  # summed over the pairs
                self.register_buffer(f"sensitive_{feature}", torch.zeros(C, C, dtype=torch.bool))
        self._checked = False

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        config, prediction = self.config, self.prediction(outputs)
        maps = [as_matrices(feature_map(self.name, prediction, feature), False) for feature in config.features]
        if config.kind != "isw":
            return self._term(maps, [off_diagonal(map_NCP) for map_NCP in maps], context)
        acts = math.ceil(config.warmup * context.max_steps)
        measures = acts - math.ceil(config.statistics * context.max_steps)
        if context.step < acts:
            if self.training and context.step >= measures:
                self.measure(maps, outputs, context)
                if context.step == acts - 1:
                    self.choose()
            # Zeros with a graph; no covariance is computed for them.
            nothing = torch.stack([map_NCP[..., :0].sum() for map_NCP in maps]).sum()
            self._metrics = {"unweighted": nothing.detach()}
            return {self.name: nothing}
        if not self._checked and not torch.compiler.is_compiling():  # once: it waits for the device
            self._checked = True
            if self.pairs == 0:
                raise ValueError(
                    f"objective {self.name!r} acts from step {acts} on, this is step {context.step}, and it has "
                    f"measured no variances in steps {measures} to {acts - 1}: give the steps that the run began with, "
                    f"and train it from its start"
                )
        return self._term(maps, [getattr(self, f"sensitive_{feature}") for feature in config.features], context)

    def _term(self, maps: list[Tensor], masks: list[Tensor], context: StepContext) -> dict[str, Tensor]:
        """Mean absolute value of the masked covariances, less the margin: averaged over images, then over maps."""
        config, per_image = self.config, []
        margin = config.margin if config.kind == "irw" else 0.0
        for map_NCP, mask_CC in zip(maps, masks, strict=True):
            total_N = (self_covariance(map_NCP).abs() * mask_CC).sum((1, 2))
            per_image.append((total_N / mask_CC.sum().clamp(min=1) - margin).clamp(min=0))
        images = constant(len(maps[0]), maps[0].device)
        loss = across_ranks.mean(torch.stack(per_image).mean(0).sum(), images, context.group)
        self._metrics = {"unweighted": loss.detach()}
        self._metrics |= {f"masked_{feature}": mask.sum() for feature, mask in zip(config.features, masks, strict=True)}
        return {self.name: weighted(loss, config.weight)}

    @torch.no_grad()
    def measure(self, maps: list[Tensor], outputs: Mapping[str, Prediction], context: StepContext) -> None:
        """Adds what every covariance varies by between the two views of an image."""
        config = self.config
        if config.other not in outputs:
            raise ValueError(
                f"objective {self.name!r} measures variance between {config.view!r} and {config.other!r}; the model "
                f"was run on: {', '.join(outputs)}. An augmentation with both views is BlindNet's"
            )
        pairs = constant(len(maps[0]), maps[0].device)
        self.pairs += summed(pairs, context)
        for feature, map_NCP in zip(config.features, maps, strict=True):
            other_NCP = as_matrices(feature_map(self.name, outputs[config.other], feature), False)
            difference = self_covariance(map_NCP) - self_covariance(other_NCP)
            variance = difference.square().sum(0) / 2
            so_far: Tensor = getattr(self, f"variance_{feature}")
            so_far += summed(variance, context)

    @torch.no_grad()
    def choose(self) -> None:
        for feature in self.config.features:
            variance = getattr(self, f"variance_{feature}") / self.pairs
            getattr(self, f"sensitive_{feature}").copy_(sensitive(variance, self.config.clusters))


def off_diagonal(map_NCP: Tensor) -> Tensor:
    """bool [C, C]: every covariance, and no variance."""
    return ~torch.eye(map_NCP.shape[1], dtype=torch.bool, device=map_NCP.device)


def summed(tensor: Tensor, context: StepContext) -> Tensor:
    return across_ranks.total(tensor, context.group)


# An operator, so that a compiled graph can hold it: it happens once in a run, on the CPU.
@torch.library.custom_op("dgseg::sensitive_covariances", mutates_args=())
def sensitive(variance_CC: Tensor, clusters: int) -> Tensor:
    """bool [C, C], symmetric: covariances whose variance is above the lowest cluster's."""
    rows, columns = np.triu_indices(len(variance_CC), k=1)
    if len(rows) == 0:
        return torch.zeros_like(variance_CC, dtype=torch.bool)
    upper = variance_CC.detach().cpu().double().numpy()[rows, columns]
    chosen = np.zeros(variance_CC.shape, dtype=bool)
    chosen[rows, columns] = upper > lowest_cluster(upper, clusters)
    return torch.from_numpy(chosen | chosen.T).to(variance_CC.device)


@sensitive.register_fake
def _fake_sensitive(variance_CC: Tensor, clusters: int) -> Tensor:
    return torch.empty_like(variance_CC, dtype=torch.bool)


Numbers = np.ndarray[tuple[int], np.dtype[Any]]


def lowest_cluster(values: Numbers, clusters: int) -> float:
    """The largest value of the lowest of k clusters, in the partition of least squared distance to the means: k-means
    without its luck, as one-dimensional values are sorted and clusters are intervals of them.

    best[j], of a number of clusters, is the least cost of the first j values; the last cluster of them begins at
    begin[j], which grows with j: every second place is searched between its two neighbours' begins (n log n)."""
    ordered = np.sort(values)
    n = len(ordered)
    sums, squares = (np.concatenate([[0.0], np.cumsum(ordered**power)]) for power in (1, 2))

    def cost(begin: Numbers, end: Numbers) -> Numbers:
        found: Numbers = squares[end] - squares[begin] - (sums[end] - sums[begin]) ** 2 / (end - begin)
        return found

    best = np.concatenate([[0.0], cost(np.zeros(n, dtype=int), np.arange(1, n + 1))])
    begins = []
    for _ in range(clusters - 1):
        begin, after = np.zeros(n + 1, dtype=int), np.zeros(n + 1)
        step = 1 << (n.bit_length() - 1)
        while step:
            ends = np.arange(step, n + 1, 2 * step)
            low = begin[ends - step]
            high = np.where(ends + step <= n, begin[np.minimum(ends + step, n)], n)
            sizes = np.minimum(high, ends - 1) - low + 1
            first = np.cumsum(sizes) - sizes
            tried = np.arange(sizes.sum()) + np.repeat(low - first, sizes)
            costs = best[tried] + cost(tried, np.repeat(ends, sizes))
            after[ends] = np.minimum.reduceat(costs, first)
            hits = np.flatnonzero(costs == np.repeat(after[ends], sizes))
            begin[ends] = tried[hits[np.searchsorted(hits, first)]]
            step //= 2
        best = after
        begins.append(begin)
    end = n
    for begin in reversed(begins):
        end = int(begin[end]) or end
    return float(ordered[end - 1])
