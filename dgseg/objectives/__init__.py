"""Predictions and a batch in, named loss terms out: one file per idea of the papers. README.md has the maths."""

from dgseg.objectives.adversarial import Adversarial
from dgseg.objectives.base import (
    OBJECTIVES,
    ORIGINAL,
    ImageLosses,
    Objective,
    Objectives,
    ParameterGroup,
    StepContext,
    objective,
)
from dgseg.objectives.boundary import BoundaryEmphasis
from dgseg.objectives.class_weights import (
    MEDIAN_FREQUENCY,
    median_frequency_weights,
    wants_median_frequency,
    with_median_frequency,
)
from dgseg.objectives.covariance import CovarianceAlignment
from dgseg.objectives.cross_entropy import CrossEntropy
from dgseg.objectives.feature_distance import FeatureDistance
from dgseg.objectives.focal_dice import FocalDice
from dgseg.objectives.mask_classification import MaskClassification
from dgseg.objectives.prototypes import PrototypeContrast
from dgseg.objectives.semantic_contrast import SemanticContrast
from dgseg.objectives.uncertainty import MaximizedEntropy, RelativeContrast, SmallLossCrossEntropy
from dgseg.objectives.whitening import Whitening

__all__ = [
    "MEDIAN_FREQUENCY",
    "OBJECTIVES",
    "ORIGINAL",
    "Adversarial",
    "BoundaryEmphasis",
    "CovarianceAlignment",
    "CrossEntropy",
    "FeatureDistance",
    "FocalDice",
    "ImageLosses",
    "MaskClassification",
    "MaximizedEntropy",
    "Objective",
    "Objectives",
    "ParameterGroup",
    "PrototypeContrast",
    "RelativeContrast",
    "SemanticContrast",
    "SmallLossCrossEntropy",
    "StepContext",
    "Whitening",
    "median_frequency_weights",
    "objective",
    "wants_median_frequency",
    "with_median_frequency",
]
