"""One model on data sets with unknown objects: how well each scorer finds them, beside how well classes are told."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dgseg.data.dataset import CorruptFile, DataError, Dataset
from dgseg.evaluation.components import ComponentScores, Sizes
from dgseg.evaluation.confusion import Confusion
from dgseg.evaluation.counting import component_sizes
from dgseg.evaluation.maps import outside_map
from dgseg.evaluation.ood import OodScores, above
from dgseg.evaluation.scorers import MahalanobisFit, Scorer, anomaly_scores, scorer
from dgseg.evaluation.table import Table, percent
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_logits


@dataclass(frozen=True)
class Detection:
    """Fractions. NaN: there is nothing to score it on (a data set that names no classes has no mIoU, one without
    unknown pixels no FPR95). siou, ppv and f1 are of the components above the threshold of the best F1 over the data
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
    model: SegmentationModel,
    datasets: Mapping[str, Dataset],
    scorers: Mapping[str, Scorer],
    *,
    sizes: Sizes | None = None,
    limit: int | None = None,
    complain: Callable[[str, CorruptFile], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Detection]:
    """A row per data set and scorer; every image once, whole and at its own size. sizes: of the components that count;
    None: counting.component_sizes. limit: so many images of each set. complain: hears of a set's images that cannot be
    read, which are then in no score; without it the first of them ends all."""
    rows = []
    for name, dataset in datasets.items():
        count = len(dataset) if limit is None else min(limit, len(dataset))
        confusion = Confusion(model.num_classes)
        tallies = {each: OodScores() for each in scorers}
        with tempfile.TemporaryDirectory() as folder:
            sound = 0
            for index in range(count):
                try:
                    images, labels, outside = _read(model, dataset, index)
                except CorruptFile as error:
                    if complain is None:
                        raise
                    complain(name, error)
                    if progress is not None:
                        progress(1)
                    continue
                np.save(_file(folder, "outside", sound), outside.numpy())
                confusion.update(predict_logits(model, images), labels)
                for each, scorer in scorers.items():
                    scores = anomaly_scores(model, images, scorer).cpu()
                    tallies[each].update(scores, outside)
                    # Rounded as they are counted: what the threshold is held against, without asking the model again.
                    np.save(_file(folder, each, sound), scores.half().numpy())
                sound += 1
                if progress is not None:
                    progress(1)
            if not sound:
                raise DataError(f"{name}: none of its {count} images can be read")
            told = confusion.scores()
            for each, tally in tallies.items():
                if not bool(tally.counts["scores"].any()):  # all is void
                    nan = math.nan
                    rows.append(Detection(name, each, nan, nan, nan, nan, nan, nan, told.miou, told.macc))
                    continue
                found = tally.result()
                components = ComponentScores(sizes or component_sizes(dataset))
                for index in range(sound):
                    scores, outside = (
                        torch.from_numpy(np.load(_file(folder, kind, index))) for kind in (each, "outside")
                    )
                    components.update(above(scores, found.best_threshold), outside)
                parts = components.result()
                rows.append(
                    Detection(
                        name,
                        each,
                        *(found.auroc, found.ap, found.fpr95 if found.positives else math.nan),
                        *(parts.siou, parts.ppv, parts.f1),
                        *(told.miou, told.macc),
                    )
                )
    return rows


def scorers_of(
    model: SegmentationModel, names: Sequence[str], training: Dataset | None = None, limit: int = 100
) -> dict[str, Scorer]:
    """By their names; refused where the model cannot be asked so. training: labelled images that mahalanobis is fitted
    to, `limit` of them, evenly spread."""
    if "learned" in names and getattr(model, "uncertainty", None) is None:
        raise ValueError(
            f"this {type(model).__name__} has no uncertainty head to ask: it was built without uncertainty=True"
        )
    return {
        name: _mahalanobis(model, training, limit) if name == "mahalanobis" else scorer(name)
        for name in dict.fromkeys(names)
    }


def _mahalanobis(model: SegmentationModel, training: Dataset | None, limit: int) -> Scorer:
    if training is None:
        raise ValueError("mahalanobis is fitted to labelled training images: name them with --fit")
    fit = MahalanobisFit(model)
    device = next(model.parameters()).device
    count = min(limit, len(training))
    for place in range(count):
        sample = training[place * len(training) // count]
        if sample.label is None:
            raise DataError(f"{training.name} is opened without its labels, and there is nothing to fit")
        images = model.normalise(sample.image[None].to(device))
        height, width = (side - side % model.multiple for side in images.shape[-2:])
        fit.update(images[..., :height, :width], sample.label[None, :height, :width].to(device))
    return fit.result()


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


def _read(model: SegmentationModel, dataset: Dataset, index: int) -> tuple[Tensor, Tensor, Tensor]:
    device = next(model.parameters()).device
    sample = dataset[index]
    if sample.label is None:
        raise DataError(f"{dataset.name} is opened without its labels, and there is nothing to score")
    known = sample.extra.get("out_of_distribution")
    outside = outside_map(sample.label[None]) if known is None else known[None]
    return sample.image[None].to(device), sample.label[None].to(device), outside


def _file(folder: str, scorer: str, index: int) -> Path:
    return Path(folder, f"{scorer}-{index}.npy")
