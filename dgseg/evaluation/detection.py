"""One model on data sets with unknown objects: how well each scorer finds them, beside how well classes are told."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dgseg.data.dataset import DataError, Dataset
from dgseg.evaluation.components import ANOMALY_TRACK, OBSTACLE_TRACK, ComponentScores, Sizes
from dgseg.evaluation.confusion import Confusion
from dgseg.evaluation.maps import outside_map
from dgseg.evaluation.ood import OodScores, above
from dgseg.evaluation.scorers import Scorer, anomaly_scores
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_logits

# What the anomaly track's sizes are stated for.
_TRACK_PIXELS = 1280 * 720


@dataclass(frozen=True)
class Detection:
    """Fractions. NaN: there is nothing to score it on (a data set that names no classes has no mIoU). siou, ppv and f1
    are of the components above the threshold of the best F1 over the data set's pixels, as SegmentMeIfYouCan's."""

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
    progress: Callable[[int], None] | None = None,
) -> list[Detection]:
    """A row per data set and scorer; every image once, whole and at its own size. sizes: of the components that count;
    None: the obstacle track's for smiyc_ro21, the anomaly track's for the others, scaled to the streets world's smaller
    images. limit: so many images of each set."""
    rows = []
    for name, dataset in datasets.items():
        count = len(dataset) if limit is None else min(limit, len(dataset))
        confusion = Confusion(model.num_classes)
        tallies = {each: OodScores() for each in scorers}
        with tempfile.TemporaryDirectory() as folder:
            for index, (images, labels, outside) in enumerate(_read(model, dataset, count)):
                np.save(_file(folder, "outside", index), outside.numpy())
                confusion.update(predict_logits(model, images), labels)
                for each, scorer in scorers.items():
                    scores = anomaly_scores(model, images, scorer).cpu()
                    tallies[each].update(scores, outside)
                    # Rounded as they are counted: what the threshold is held against, without asking the model again.
                    np.save(_file(folder, each, index), scores.half().numpy())
                if progress is not None:
                    progress(1)
            told = confusion.scores()
            for each, tally in tallies.items():
                found = tally.result()
                components = ComponentScores(sizes or _sizes(dataset, outside))
                for index in range(count):
                    scores, outside = (
                        torch.from_numpy(np.load(_file(folder, kind, index))) for kind in (each, "outside")
                    )
                    components.update(above(scores, found.best_threshold), outside)
                parts = components.result()
                rows.append(
                    Detection(
                        name,
                        each,
                        *(found.auroc, found.ap, found.fpr95),
                        *(parts.siou, parts.ppv, parts.f1),
                        *(told.miou, told.macc),
                    )
                )
    return rows


def table(rows: Sequence[Detection]) -> str:
    """In percent; a dash for what has no value."""
    heads = ("dataset", "scorer", "AUROC", "AP", "FPR95", "sIoU", "PPV", "F1", "mIoU", "mAcc")
    cells = [heads, *(tuple(map(_text, astuple(row))) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return "\n".join(
        "  ".join(f"{cell:{'<' if column < 2 else '>'}{widths[column]}}" for column, cell in enumerate(row))
        for row in cells
    )


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def _read(model: SegmentationModel, dataset: Dataset, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    device = next(model.parameters()).device
    for index in range(count):
        sample = dataset[index]
        if sample.label is None:
            raise DataError(f"{dataset.name} is opened without its labels, and there is nothing to score")
        known = sample.extra.get("out_of_distribution")
        outside = outside_map(sample.label[None]) if known is None else known[None]
        yield sample.image[None].to(device), sample.label[None].to(device), outside


def _sizes(dataset: Dataset, outside: Tensor) -> Sizes:
    if dataset.name == "smiyc_ro21":
        return OBSTACLE_TRACK
    if not dataset.name.startswith("streets"):
        return ANOMALY_TRACK
    share = outside[0].numel() / _TRACK_PIXELS
    return Sizes(max(1, round(ANOMALY_TRACK.predicted * share)), max(1, round(ANOMALY_TRACK.true * share)))


def _file(folder: str, scorer: str, index: int) -> Path:
    return Path(folder, f"{scorer}-{index}.npy")
