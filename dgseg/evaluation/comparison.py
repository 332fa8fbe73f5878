"""Two models side by side: whether one is better beyond noise, where they err, and the images on which they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from dgseg.data.dataset import Dataset
from dgseg.evaluation.bootstrap import Difference, paired_bootstrap
from dgseg.evaluation.boundary import BoundaryErrors
from dgseg.evaluation.counting import domains
from dgseg.evaluation.gallery import examples
from dgseg.evaluation.pictures import Example
from dgseg.evaluation.report.table import Cell, Table, csv_text, finite, percent, points
from dgseg.evaluation.result import DomainResult, Evaluation, ImageCounts, class_names
from dgseg.models.base import SegmentationModel

Floats = npt.NDArray[np.float64]

EXTRAS = ("boundary", "images")  # what both evaluations must have counted
FEWEST = 10  # images; resamplings of fewer are too alike, and their interval too short, to say anything
Better = Literal["A", "B", "neither", "unknown"]
VERDICTS: dict[Better, str] = {
    "A": "A is better, beyond noise",
    "B": "B is better, beyond noise",
    "neither": "A and B do not differ beyond noise",
    "unknown": f"no verdict: fewer than {FEWEST} images",
}
RULE = (
    "Chosen per domain by the share of pixels that are right: the images in which B gains most over A, then those in "
    "which it loses most."
)


@dataclass(frozen=True)
class Comparison:
    a: Evaluation
    b: Evaluation
    differences: Mapping[str, Difference]  # per domain; then the average over data sets, where there are several

    @cached_property
    def better(self) -> dict[str, Better]:
        """Which model may be called better; an average is no better founded than its least domain."""
        fewest = min(each.images for name, each in self.differences.items() if name in self.a.domains)
        found: dict[str, Better] = {}
        for name, each in self.differences.items():
            if (each.images if name in self.a.domains else fewest) < FEWEST:
                found[name] = "unknown"
            elif not each.beyond_noise:
                found[name] = "neither"
            else:
                found[name] = "B" if each.difference > 0 else "A"
        return found

    @property
    def verdicts(self) -> dict[str, str]:
        return {name: VERDICTS[better] for name, better in self.better.items()}

    def boundaries(self) -> dict[str, dict[str, BoundaryErrors]]:
        """domain -> "A" and "B"; of domains that hold a labelled pixel."""
        found = {}
        for name in self.a.domains:
            a, b = self.a.domains[name].boundary, self.b.domains[name].boundary
            assert a, "A's evaluation counts boundaries"
            assert b, "B's evaluation counts boundaries"
            if a.pixels().any():
                found[name] = {"A": a, "B": b}
        return found

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, in fractions; what has no score is None."""
        boundaries = self.boundaries()
        found: dict[str, Any] = {}
        for name, each in self.differences.items():
            found[name] = {**vars(each), "beyond_noise": each.beyond_noise, "verdict": self.verdicts[name]}
            if name in self.a.domains:
                for model, of in (("a", self.a), ("b", self.b)):
                    found[name][f"iou_{model}"] = _iou(of.domains[name])
            for model, tally in boundaries.get(name, {}).items():
                found[name]["boundary_bands"] = list(tally.names)
                found[name][f"boundary_error_{model.lower()}"] = [finite(error) for error in tally.error().tolist()]
        return found

    def as_csv(self) -> str:
        """A row per domain, in fractions."""
        head = ("domain", "images", "miou_a", "miou_b", "difference", "low", "high", "confidence", "p_value", "verdict")
        rows: list[tuple[Cell, ...]] = []
        for name, each in self.differences.items():
            numbers = (each.a, each.b, each.difference, each.low, each.high, each.confidence, each.p_value)
            rows.append((name, each.images, *numbers, self.verdicts[name]))
        return csv_text(head, rows)


def compare(
    a: Evaluation, b: Evaluation, *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Of one data set's conditions, each is compared and their sum; the average is over data sets. Domains without a
    labelled pixel have nothing to compare."""
    scored = [name for name, result in a.domains.items() if result.scores.pixels]
    if not scored:
        raise ValueError("no image has a labelled pixel")
    inside = [name for name in scored if "/" in name and name.partition("/")[0] in a.domains]
    whole = [name for name in scored if name not in inside]
    found: dict[str, Difference] = {}
    for names in (whole, inside):
        if names:
            both = ({name: _images(of.domains[name]).parts for name in names} for of in (a, b))
            drawn = paired_bootstrap(*both, resamples=resamples, confidence=confidence, seed=seed)
            found |= {name: each for name, each in drawn.items() if names is whole or name in names}
    last = [name for name in found if name not in a.domains]
    return Comparison(a, b, {name: found[name] for name in (*scored, *last)})


def scores_table(found: Comparison) -> Table:
    first = next(iter(found.differences.values()))
    rows = [
        (
            name,
            f"{each.images:,}",
            percent(each.a),
            percent(each.b),
            points(each.difference),
            f"{points(each.low)} to {points(each.high)}",
            f"{each.p_value:.4f}",
            found.verdicts[name],
        )
        for name, each in found.differences.items()
    ]
    head = ("domain", "images", "A", "B", "B - A", f"{100 * first.confidence:g} % interval", "p", "verdict")
    rules = frozenset(place for place, name in enumerate(found.differences) if place and name not in found.a.domains)
    return Table("mIoU, %", head, tuple(rows), rules)


def classes_table(found: Comparison) -> Table:
    """By how much each class's IoU differs; nothing is claimed of these."""
    names = class_names(next(iter(found.a.domains.values())).confusion.num_classes)
    rows = []
    for c, name in enumerate(names):
        pairs = [(found.a.domains[of].scores.iou[c], found.b.domains[of].scores.iou[c]) for of in found.a.domains]
        rows.append((name, *(points(b - a, 1) for a, b in pairs)))
    return Table("IoU of B minus IoU of A, points", ("class", *found.a.domains), tuple(rows))


def boundary_table(found: Comparison) -> Table:
    boundaries = found.boundaries()
    bands = next((tally.names for pair in boundaries.values() for tally in pair.values()), ())
    rows = [
        (f"{domain}: {model}", *(percent(error, 1) for error in tally.error().tolist()))
        for domain, pair in boundaries.items()
        for model, tally in pair.items()
    ]
    rules = frozenset(range(2, len(rows), 2))
    return Table("Wrong pixels by distance to the nearest class boundary, %", ("", *bands), tuple(rows), rules)


def most_different(a: DomainResult, b: DomainResult, count: int) -> list[tuple[str, str]]:
    """(sample id, caption) by RULE: up to `count` gains and `count` losses."""
    ids = _images(a).scored_ids
    if ids != _images(b).scored_ids:
        raise ValueError("the models were scored on different images: was a file replaced meanwhile?")
    gain = _share_right(b) - _share_right(a)
    # Of equal ones the first; an image without a label (NaN) is neither.
    gains = [place for place in np.argsort(-gain, kind="stable").tolist()[:count] if gain[place] > 0]
    losses = [place for place in np.argsort(gain, kind="stable").tolist()[:count] if gain[place] < 0]
    return [(ids[place], f"B {100 * gain[place]:+.1f} points of pixels right") for place in (*gains, *losses)]


def side_by_side(
    models: Mapping[str, SegmentationModel],
    datasets: Sequence[Dataset],
    found: Comparison,
    count: int,
    device: torch.device | str = "cpu",
) -> dict[str, list[Example]]:
    """domain -> its panels, the predictions of both models in each."""
    shown = {}
    protocols = {"A": found.a.protocol, "B": found.b.protocol}
    for dataset in datasets:
        for domain in domains(dataset):
            chosen = most_different(found.a.domains[domain], found.b.domains[domain], count)
            of_a, of_b = (
                examples(model, dataset, chosen, protocols[name], device=device, name=name)
                for name, model in models.items()
            )
            pairs = [
                Example(a.image, a.truth, {**a.predictions, **b.predictions}, caption=a.caption)
                for a, b in zip(of_a, of_b, strict=True)
            ]
            if pairs:
                shown[domain] = pairs
    return shown


def _share_right(result: DomainResult) -> Floats:
    """[images]; NaN for an image without a label."""
    right, truth, _ = _images(result).parts.sum(2).T
    share: Floats = np.divide(right, truth, out=np.full(len(truth), np.nan), where=truth > 0)
    return share


def _images(result: DomainResult) -> ImageCounts:
    assert result.per_image is not None, "both evaluations count images"
    return result.per_image


def _iou(result: DomainResult) -> dict[str, float | None]:
    names = class_names(result.confusion.num_classes)
    return {name: finite(iou) for name, iou in zip(names, result.scores.iou.tolist(), strict=True)}
