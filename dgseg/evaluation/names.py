"""What scores are called wherever they are kept: files, MLflow, tables, sweeps.

The domain comes first: "fog/miou", "fog/macc", "fog/iou/road", of a condition "acdc/fog/miou". An average is a domain
of its own: "adverse/miou". Scores on validation data begin with it, "validation/dusk/miou"; their mean is
"validation/miou".
"""

from collections.abc import Mapping
from typing import Any

VALIDATION = "validation"
MIOU = "miou"


def miou(domain: str) -> str:
    return f"{domain}/{MIOU}"


def domain_of(name: str) -> str:
    """What tables of mIoU call a score: "fog/miou" is "fog"; any other score keeps its name."""
    return name.removesuffix(f"/{MIOU}")


def flat_scores(
    scores: Mapping[str, Mapping[str, float]], averages: Mapping[str, float], *, validation: bool = False
) -> dict[str, float]:
    """scores: domain -> "miou", "macc", "iou/road" …; averages: mIoU by name."""
    below = f"{VALIDATION}/" if validation else ""
    flat = {miou(name): value for name, value in averages.items()}
    return flat | {f"{below}{domain}/{name}": value for domain, by in scores.items() for name, value in by.items()}


def scores_of_result(result: Mapping[str, Any]) -> dict[str, float]:
    """Of a run's result.json; older ones hold averages apart and a mapping per domain."""
    scores = result.get("scores", {})
    if any(isinstance(value, Mapping) for value in scores.values()):
        return flat_scores(scores, result.get("averages", {}))
    return dict(scores)
