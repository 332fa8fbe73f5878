"""Scores by the official conventions, streaming, and pictures that say where a model fails.

Every metric is a Tally: integer counts that images are added to one batch at a time, that processes add up to the last
digit, and that scores are derived from at the end. Reading order: tally.py, maps.py, confusion.py, protocols.py,
result.py, counting.py, evaluate.py, then any other.
"""

from dgseg.evaluation.bootstrap import Difference, paired_bootstrap
from dgseg.evaluation.boundary import BoundaryErrors, BoundaryIou
from dgseg.evaluation.calibration import Calibration, CalibrationResult, entropy_map
from dgseg.evaluation.components import ComponentResult, ComponentScores
from dgseg.evaluation.confusion import SYNTHIA_16, Confusion, Scores
from dgseg.evaluation.counting import Seeing
from dgseg.evaluation.evaluate import evaluate
from dgseg.evaluation.maps import outside_map, predicted_labels
from dgseg.evaluation.names import flat_scores
from dgseg.evaluation.ood import OodResult, OodScores, ood_metrics
from dgseg.evaluation.protocols import PROTOCOLS, Protocol, protocol_named
from dgseg.evaluation.result import DomainResult, Evaluation, class_names

__all__ = [
    "PROTOCOLS",
    "SYNTHIA_16",
    "BoundaryErrors",
    "BoundaryIou",
    "Calibration",
    "CalibrationResult",
    "ComponentResult",
    "ComponentScores",
    "Confusion",
    "Difference",
    "DomainResult",
    "Evaluation",
    "OodResult",
    "OodScores",
    "Protocol",
    "Scores",
    "Seeing",
    "class_names",
    "entropy_map",
    "evaluate",
    "flat_scores",
    "ood_metrics",
    "outside_map",
    "paired_bootstrap",
    "predicted_labels",
    "protocol_named",
]
