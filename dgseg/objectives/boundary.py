"""Boundary pixels weigh more: FLEX-Seg's Uncertainty Boundary Emphasis (UBE, Eq. 7 and 8), and the fixed weightings of
its motivation (Eq. 2).

One radius makes one band, so disjoint and nested bands are the same here.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor

from dgseg.data.labels import VOID
from dgseg.objectives.base import StepContext, objective
from dgseg.objectives.cross_entropy import CrossEntropy
from dgseg.ops import boundary_bands, entropy_weighted_cross_entropy
from dgseg.ops.entropy_weighted_cross_entropy.reference import EntropyWeightedLoss


@objective("boundary_emphasis", "ube")
class BoundaryEmphasis(CrossEntropy):
    """In place of cross-entropy. The defaults are UBE; ignore(), reduce(), amplify() and threshold() of the config are
    the baselines."""

    @dataclass(frozen=True, kw_only=True)
    class Config(CrossEntropy.Config):
        alpha: float = 3.0
        """entropy: a band pixel weighs 1 + alpha·sigmoid(its standardised entropy); fixed and threshold: alpha"""
        radius: int = 3
        """of the band, in label pixels: a pixel is in it when its (2·radius+1)² window holds another class"""
        weighting: Literal["entropy", "fixed", "threshold"] = "entropy"
        confidence: float | None = None
        """threshold: band pixels weigh alpha where the probability of their class is below this"""
        eps: float = 1e-6
        name: str = "ube"

        def __post_init__(self) -> None:
            super().__post_init__()
            confidence = self.confidence
            if (confidence is not None) != (self.weighting == "threshold"):
                raise ValueError(
                    f'confidence belongs to weighting="threshold": give both or neither; '
                    f"got confidence={confidence} with weighting={self.weighting!r}"
                )
            if confidence is not None and not 0 < confidence < 1:
                raise ValueError(f"confidence must be a probability between 0 and 1; it is {confidence}")
            if self.radius < 1:
                raise ValueError(f"radius must be at least 1; it is {self.radius}. For no band, use cross-entropy")
            if not 0 <= self.alpha < math.inf:
                raise ValueError(f"alpha must be finite and at least 0; it is {self.alpha}")

        @classmethod
        def amplify(cls, alpha: float = 5.0) -> Self:
            return cls(weighting="fixed", alpha=alpha, name="boundary")

        @classmethod
        def ignore(cls) -> Self:
            return cls(weighting="fixed", alpha=0.0, name="boundary")

        @classmethod
        def reduce(cls, alpha: float = 0.5) -> Self:
            return cls(weighting="fixed", alpha=alpha, name="boundary")

        @classmethod
        def threshold(cls, confidence: float = 0.5, alpha: float = 5.0) -> Self:
            return cls(weighting="threshold", alpha=alpha, confidence=confidence, name="boundary")

    config: Config

    def bands(self, labels: Tensor) -> Tensor:
        return boundary_bands(labels, (self.config.radius,), ignore_index=VOID)

    def loss(self, logits: Tensor, labels: Tensor, bands: Tensor | None, context: StepContext) -> EntropyWeightedLoss:
        config = self.config
        return entropy_weighted_cross_entropy(
            logits,
            labels,
            bands,
            alpha=config.alpha,
            weighting=config.weighting,
            threshold=None if config.confidence is None else -math.log(config.confidence),
            eps=config.eps,
            denominator=config.denominator,
            class_weight=self.class_weight,
            ignore_index=VOID,
            group=context.group,
        )
