"""Predictions and a batch in, named loss terms out: one file per idea of the papers. README.md has the maths."""

from dgseg.objectives.adversarial import Adversarial, AdversarialConfig
from dgseg.objectives.base import (
    ORIGINAL,
    ImageLosses,
    Objective,
    Objectives,
    ParameterGroup,
    StepContext,
)
from dgseg.objectives.boundary import BoundaryEmphasis, BoundaryEmphasisConfig
from dgseg.objectives.class_weights import (
    MEDIAN_FREQUENCY,
    median_frequency_weights,
    wants_median_frequency,
    with_median_frequency,
)
from dgseg.objectives.covariance import CovarianceAlignment, CovarianceAlignmentConfig
from dgseg.objectives.cross_entropy import CrossEntropy, CrossEntropyConfig
from dgseg.objectives.feature_distance import FeatureDistance, FeatureDistanceConfig
from dgseg.objectives.focal_dice import FocalDice, FocalDiceConfig
from dgseg.objectives.mask_classification import MaskClassification, MaskClassificationConfig
from dgseg.objectives.prototypes import PrototypeContrast, PrototypeContrastConfig
from dgseg.objectives.semantic_contrast import SemanticContrast, SemanticContrastConfig
from dgseg.objectives.uncertainty import (
    MaximizedEntropy,
    MaximizedEntropyConfig,
    RelativeContrast,
    RelativeContrastConfig,
    SmallLossConfig,
    SmallLossCrossEntropy,
)
from dgseg.objectives.whitening import Whitening, WhiteningConfig

__all__ = [
    "MEDIAN_FREQUENCY",
    "ORIGINAL",
    "Adversarial",
    "AdversarialConfig",
    "BoundaryEmphasis",
    "BoundaryEmphasisConfig",
    "CovarianceAlignment",
    "CovarianceAlignmentConfig",
    "CrossEntropy",
    "CrossEntropyConfig",
    "FeatureDistance",
    "FeatureDistanceConfig",
    "FocalDice",
    "FocalDiceConfig",
    "ImageLosses",
    "MaskClassification",
    "MaskClassificationConfig",
    "MaximizedEntropy",
    "MaximizedEntropyConfig",
    "Objective",
    "Objectives",
    "ParameterGroup",
    "PrototypeContrast",
    "PrototypeContrastConfig",
    "RelativeContrast",
    "RelativeContrastConfig",
    "SemanticContrast",
    "SemanticContrastConfig",
    "SmallLossConfig",
    "SmallLossCrossEntropy",
    "StepContext",
    "Whitening",
    "WhiteningConfig",
    "median_frequency_weights",
    "wants_median_frequency",
    "with_median_frequency",
]
