"""How well unknown objects are found, beside how well classes are told: a row per data set and scorer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from dgseg.data.dataset import DataError, Dataset
from dgseg.evaluation.evaluate import evaluate
from dgseg.evaluation.protocols import PROTOCOLS
from dgseg.evaluation.report.table import Table, percent
from dgseg.evaluation.result import DomainResult, Evaluation
from dgseg.evaluation.scorers import Scorer
from dgseg.models.base import SegmentationModel

EXTRAS = ("ood", "components")


@dataclass(frozen=True)
class Detection:
    """Fractions. NaN: there is nothing to score it on (a data set that names no classes has no mIoU, one without
    unknown pixels no AUROC). siou, ppv and f1 are of the components above the threshold of the best F1 over the data
    set's pixels, as SegmentMeIfYouCan's."""

    dataset: str
    scorer: str
    auroc: float
    ap: float
    fpr95: float
    siou: float
    ppv: float
    f1: float
    miou: float
    macc: float


def detect(
    model: SegmentationModel, datasets: Sequence[Dataset], scorers: Mapping[str, Scorer], **options: Any
) -> tuple[list[Detection], Evaluation]:
    """`evaluate` of whole images at their own size (options are its own), and its rows. Every data set must have an
    image that can be read."""
    evaluation = evaluate(model, datasets, PROTOCOLS["native"], extras=EXTRAS, scorers=scorers, **options)
    for dataset in datasets:
        if not any(result.images for domain, result in evaluation.domains.items() if _of(dataset, domain)):
            raise DataError(f"{dataset.domain}: none of its images can be read")
    return rows(evaluation, datasets, list(scorers)), evaluation


def rows(evaluation: Evaluation, datasets: Sequence[Dataset], scorers: Sequence[str]) -> list[Detection]:
    """A data set's conditions are one row where all of them were scored together."""
    named = [
        (domain, result)
        for dataset in datasets
        for domain, result in evaluation.domains.items()
        if (domain == dataset.domain if dataset.domain in evaluation.domains else _of(dataset, domain))
    ]
    return [Detection(domain, scorer, *_scores(result, scorer)) for domain, result in named for scorer in scorers]


def _of(dataset: Dataset, domain: str) -> bool:
    return domain == dataset.domain or domain.startswith(f"{dataset.domain}/")


def _scores(result: DomainResult, scorer: str) -> tuple[float, ...]:
    found = [math.nan] * 6
    if scorer in result.ood:
        pixels, components = result.ood[scorer].result(), result.components[scorer].result()
        found = [pixels.auroc, pixels.ap, pixels.fpr95, components.siou, components.ppv, components.f1]
    return (*found, result.scores.miou, result.scores.macc)


SCORES = tuple(each.name for each in fields(Detection))[2:]


def means(rows: Sequence[Detection]) -> dict[str, float]:
    """Of every score over the data sets that have it; NaN where none has."""
    values = {name: [getattr(row, name) for row in rows if not np.isnan(getattr(row, name))] for name in SCORES}
    return {name: float(np.mean(found)) if found else float("nan") for name, found in values.items()}


def table(rows: Mapping[str, Sequence[Detection]]) -> Table:
    """Of models by their names; the means over data sets come last where there are several."""
    head = ("", "data set", "AUROC", "AP", "FPR95", "sIoU", "PPV", "F1", "mIoU", "mAcc")
    lines: list[tuple[str, ...]] = []
    rules = []
    several = any(len({row.dataset for row in found}) > 1 for found in rows.values())
    for model, found in rows.items():
        lines += [(f"{model}: {row.scorer}", row.dataset, *map(percent, astuple(row)[2:])) for row in found]
    if several:
        rules.append(len(lines))
        for model, found in rows.items():
            for each in dict.fromkeys(row.scorer for row in found):
                mean = means([row for row in found if row.scorer == each])
                lines.append((f"{model}: {each}", "mean", *map(percent, mean.values())))
    return Table("Unknown objects found, and classes told, %", head, tuple(lines), frozenset(rules))
