"""Boundary pixels weigh more: FLEX-Seg's Uncertainty Boundary Emphasis (UBE, Eq. 7 and 8), and the fixed weightings of
its motivation (Eq. 2).

One radius makes one band, so disjoint and nested bands are the same here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from torch import Tensor

from dgseg.data.labels import VOID
from dgseg.models.base import SegmentationModel
from dgseg.objectives.base import ORIGINAL
from dgseg.objectives.class_weights import ClassWeight
from dgseg.objectives.cross_entropy import CrossEntropy
from dgseg.ops import boundary_bands


@dataclass(frozen=True)
class BoundaryEmphasisConfig:
    """In place of cross-entropy. The defaults are UBE; ignore(), reduce(), amplify() and threshold() the baselines."""

    alpha: float = 3.0
    """entropy: a band pixel weighs 1 + alpha·sigmoid(its standardised entropy); fixed and threshold: alpha"""
    radius: int = 3
    """of the band, in label pixels: a pixel is in it when its (2·radius+1)² window holds another class"""
    weighting: Literal["entropy", "fixed", "threshold"] = "entropy"
    confidence: float | None = None
    """threshold: band pixels weigh alpha where the probability of their class is below this"""
    eps: float = 1e-6
    weight: float = 1.0
    denominator: Literal["valid", "all"] = "valid"
    """divide by the global batch's valid pixels, or by all its pixels (the paper's N)"""
    class_weight: ClassWeight = None
    aux_multiple: float = 1.0
    """of the weights that the model gives its auxiliary predictions; 0 leaves them out"""
    view: str = ORIGINAL
    name: str = "ube"

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

    def build(self, model: SegmentationModel) -> "BoundaryEmphasis":
        return BoundaryEmphasis(
            model.num_classes,
            name=self.name,
            weight=self.weight,
            view=self.view,
            denominator=self.denominator,
            class_weight=self.class_weight,
            aux_multiple=self.aux_multiple,
            alpha=self.alpha,
            radius=self.radius,
            weighting=self.weighting,
            confidence=self.confidence,
            eps=self.eps,
        )


class BoundaryEmphasis(CrossEntropy):
    def __init__(
        self,
        num_classes: int,
        *,
        name: str = "ube",
        weight: float = 1.0,
        view: str = ORIGINAL,
        denominator: str = "valid",
        class_weight: Sequence[float] | str | None = None,
        aux_multiple: float = 1.0,
        alpha: float = 3.0,
        radius: int = 3,
        weighting: str = "entropy",
        confidence: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(
            num_classes,
            name=name,
            weight=weight,
            view=view,
            denominator=denominator,
            class_weight=class_weight,
            aux_multiple=aux_multiple,
        )
        if weighting not in ("entropy", "fixed", "threshold"):
            raise ValueError(f'weighting must be "entropy", "fixed" or "threshold"; it is {weighting!r}')
        if (confidence is not None) != (weighting == "threshold"):
            raise ValueError(
                f'confidence belongs to weighting="threshold": give both or neither; '
                f"got confidence={confidence} with weighting={weighting!r}"
            )
        if confidence is not None and not 0 < confidence < 1:
            raise ValueError(f"confidence must be a probability between 0 and 1; it is {confidence}")
        if radius < 1:
            raise ValueError(f"radius must be at least 1; it is {radius}. For no band, use cross-entropy")
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be finite and at least 0; it is {alpha}")
        self.radius = radius
        self._options = {
            "alpha": alpha,
            "weighting": weighting,
            "threshold": None if confidence is None else -math.log(confidence),
            "eps": eps,
        }

    def bands(self, labels: Tensor) -> Tensor:
        return boundary_bands(labels, (self.radius,), ignore_index=VOID)

    def options(self) -> Mapping[str, Any]:
        return self._options
