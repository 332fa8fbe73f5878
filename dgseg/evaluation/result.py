"""What an evaluation finds: per domain the counts, from which every score is derived when it is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dgseg.data.labels import CLASSES
from dgseg.evaluation.boundary import BoundaryErrors, BoundaryIou
from dgseg.evaluation.calibration import Calibration
from dgseg.evaluation.components import ComponentScores
from dgseg.evaluation.confusion import Confusion, Scores
from dgseg.evaluation.ood import METRICS, OodScores
from dgseg.evaluation.protocols import Protocol, averages, whole_datasets
from dgseg.evaluation.report.table import finite
from dgseg.evaluation.tally import Tally


class Seen(Tally):
    """counts["images"]: how many were scored, and how many could not be read."""

    def __init__(self) -> None:
        super().__init__({"images": (2,)}, {})


class ImageCounts(Tally):
    """Per image what its IoU comes from (confusion.iou_parts), for a paired bootstrap. counts["parts"] is [images, 3,
    C]; an image that could not be read stays zero, counts["scored"] says which."""

    def __init__(self, ids: Sequence[str], num_classes: int) -> None:
        super().__init__({"parts": (len(ids), 3, num_classes), "scored": (len(ids),)}, {"num_classes": num_classes})
        self.ids = tuple(ids)

    @property
    def parts(self) -> npt.NDArray[np.int64]:
        """[scored images, 3, C], in the order of the data set."""
        parts: npt.NDArray[np.int64] = self.counts["parts"].numpy()[self._scored]
        return parts

    @property
    def scored_ids(self) -> list[str]:
        return [self.ids[row] for row in np.flatnonzero(self._scored)]

    @property
    def _scored(self) -> npt.NDArray[np.bool_]:
        scored: npt.NDArray[np.bool_] = self.counts["scored"].numpy() > 0
        return scored

    def merge(self, other: Self) -> Self:
        """Another domain's images come after these; nothing is added up."""
        both = type(self)(self.ids + other.ids, self.settings["num_classes"])
        for name, count in both.counts.items():
            count[: len(self.ids)] = self.counts[name]
            count[len(self.ids) :] = other.counts[name]
        return both


@dataclass(frozen=True)
class DomainResult:
    """One domain's counts; what was not asked for is None."""

    dataset: str  # that the domain is of
    confusion: Confusion
    seen: Seen
    classes: tuple[int, ...] | None = None  # those that are scored; None: all
    boundary: BoundaryErrors | None = None
    boundary_iou: BoundaryIou | None = None
    calibration: Calibration | None = None
    ood: Mapping[str, OodScores] = field(default_factory=dict)  # by kind of score; void without such pixels
    components: Mapping[str, ComponentScores] = field(default_factory=dict)
    per_image: ImageCounts | None = None

    @cached_property
    def scores(self) -> Scores:
        return self.confusion.scores(self.classes)

    @property
    def images(self) -> int:
        """Those that were scored."""
        return int(self.seen.counts["images"][0])

    @property
    def corrupt(self) -> int:
        return int(self.seen.counts["images"][1])

    def tallies(self) -> list[Tally]:
        unknown = (*self.ood.values(), *self.components.values())
        optional = (self.boundary, self.boundary_iou, self.calibration, *unknown, self.per_image)
        return [self.confusion, self.seen, *(tally for tally in optional if tally is not None)]

    def merge(self, other: Self) -> Self:
        """These counts with another domain's added: a data set of its conditions."""
        if self.ood.keys() != other.ood.keys() or self.components.keys() != other.components.keys():
            raise ValueError(f"cannot add up out-of-distribution scores {sorted(self.ood)} and {sorted(other.ood)}")
        for name in ("confusion", "seen", "boundary", "boundary_iou", "calibration"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if (mine is None) != (theirs is None):
                raise ValueError(f"cannot add up results of which only one counted {name}")
            if mine is not None:
                mine.merge(theirs)
        for name, tally in self.ood.items():
            tally.merge(other.ood[name])
        for name, components in self.components.items():
            components.merge(other.components[name])
        images = self.per_image.merge(other.per_image) if self.per_image and other.per_image else None
        return replace(self, per_image=images)

    def named_scores(self) -> dict[str, float]:
        """By the names that follow the domain's (names.py); NaN for what has no score."""
        scores, names = self.scores, class_names(self.confusion.num_classes)
        named = {"miou": scores.miou, "macc": scores.macc, "pixel_accuracy": scores.pixel_accuracy}
        named |= {f"iou/{names[c]}": float(iou) for c, iou in zip(scores.classes, scores.iou, strict=True)}
        if self.calibration is not None:
            named["ece"] = self.calibration.result().ece
        if self.boundary_iou is not None:
            named["boundary_iou"] = self.boundary_iou.mean_iou(self.classes)
        for kind, tally in self.ood.items():
            result = tally.result()
            named |= {f"ood/{kind}/{metric}": float(getattr(result, metric)) for metric in METRICS}
            if kind in self.components:
                one = self.components[kind].result()
                named |= {f"ood/{kind}/{metric}": getattr(one, metric) for metric in ("siou", "ppv", "f1")}
        return named

    def as_dict(self, *, per_image: bool = False) -> dict[str, Any]:
        scores, names = self.scores, class_names(self.confusion.num_classes)
        chosen = [names[c] for c in scores.classes]
        found: dict[str, Any] = {
            "dataset": self.dataset,
            "images": self.images,
            "corrupt": self.corrupt,
            "pixels": scores.pixels,
            "miou": finite(scores.miou),
            "macc": finite(scores.macc),
            "pixel_accuracy": finite(scores.pixel_accuracy),
            "iou": dict(zip(chosen, _numbers(scores.iou), strict=True)),
            "accuracy": dict(zip(chosen, _numbers(scores.accuracy), strict=True)),
            "confusion": self.confusion.matrix.tolist(),
        }
        if self.boundary is not None:
            found["boundary"] = {
                "bands": list(self.boundary.names),
                "pixels": self.boundary.pixels().tolist(),
                "error": _numbers(self.boundary.error()),
                "class_error": dict(zip(names, map(_numbers, self.boundary.class_error().T), strict=True)),
                "trimap_radii": [*self.boundary.radii, None],
                "trimap_miou": [finite(each.miou) for each in self.boundary.trimap(self.classes)],
            }
        if self.boundary_iou is not None:
            found["boundary_iou"] = {
                "mean": finite(self.boundary_iou.mean_iou(self.classes)),
                "iou": dict(zip(chosen, _numbers(self.boundary_iou.class_iou(self.classes)), strict=True)),
            }
        if self.calibration is not None:
            result = self.calibration.result()
            found["calibration"] = {
                "ece": finite(result.ece),
                "largest_gap": finite(result.largest_gap),
                "confidence": _numbers(result.confidence),
                "accuracy": _numbers(result.accuracy),
                "pixels": result.pixels.tolist(),
                "entropy_right": finite(result.entropy_right),
                "entropy_wrong": finite(result.entropy_wrong),
            }
        if self.ood:
            found["ood"] = {name: _ood(tally, self.components.get(name)) for name, tally in self.ood.items()}
        if per_image and self.per_image is not None:
            found["per_image"] = {
                "ids": self.per_image.scored_ids,
                "parts": self.per_image.parts.tolist(),
            }
        return found


@dataclass(frozen=True)
class Evaluation:
    domains: Mapping[str, DomainResult]  # "acdc" before "acdc/fog" …
    protocol: Protocol
    # sample id (domain: id where data sets are of one kind) -> what is wrong with its file; these are in no score
    corrupt: Mapping[str, str]
    seconds: float  # of the slowest rank, loading included

    @property
    def images(self) -> int:
        return sum(result.images for name, result in self.domains.items() if name not in self._sums)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    def averages(self) -> dict[str, float]:
        """Of mIoU: Avg2, Avg3, Avg5, and the streets world's adverse, standard and all; those whose data are there."""
        whole = whole_datasets(self.domains)
        return averages({name: result.scores.miou for name, result in self.domains.items() if name in whole})

    def describe(self) -> str:
        """How the scores were made; to be shown beside them."""
        text = self.protocol.describe(dict.fromkeys(result.dataset for result in self.domains.values()))
        result = next(iter(self.domains.values()))
        if result.classes is None:
            return text
        names = class_names(result.confusion.num_classes)
        left_out = ", ".join(name for c, name in enumerate(names) if c not in result.classes)
        return (
            f"{text}\nMeans are over {len(result.classes)} classes. Without a score of their own, but false positives "
            f"where they are\n  taken for one of these: {left_out}."
        )

    def as_dict(self, *, per_image: bool = False) -> dict[str, Any]:
        """JSON-able: what has no score is None. per_image: also each image's right, true and predicted pixels."""
        return {
            "protocol": {"name": self.protocol.name, "description": self.describe()},
            "images": self.images,
            "images_per_second": self.images_per_second,
            "corrupt": dict(self.corrupt),
            "averages": {name: finite(value) for name, value in self.averages().items()},
            "domains": {name: result.as_dict(per_image=per_image) for name, result in self.domains.items()},
        }

    @property
    def _sums(self) -> set[str]:
        return {name.partition("/")[0] for name in self.domains if "/" in name}


def class_names(num_classes: int) -> tuple[str, ...]:
    return CLASSES if num_classes == len(CLASSES) else tuple(f"class {c}" for c in range(num_classes))


def _ood(tally: OodScores, components: ComponentScores | None) -> dict[str, Any]:
    result = tally.result()
    found: dict[str, Any] = {
        **{name: finite(getattr(result, name)) for name in METRICS},
        "interval": {name: _numbers(np.array(bounds)) for name, bounds in result.interval.items()},
        "best_f1": finite(result.best_f1),
        "best_threshold": finite(result.best_threshold),
        "positives": result.positives,
        "negatives": result.negatives,
    }
    if components is not None:
        one = components.result()
        found["components"] = {"siou": finite(one.siou), "ppv": finite(one.ppv), "f1": finite(one.f1)}
        found["smallest_components"] = dict(components.settings)  # those that count, in pixels
    return found


def _numbers(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [finite(value) for value in values.tolist()]
