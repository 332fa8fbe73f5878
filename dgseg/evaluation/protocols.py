"""How images are shown to a model when it is scored. Two protocols' numbers do not compare: every table says which."""

import textwrap
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from typing import Protocol as Interface

from dgseg.data.datasets.acdc import CONDITIONS
from dgseg.data.streets.domains import ADVERSE, STANDARD, TARGETS

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Protocol:
    """Images are fitted into `sizes` (by data set), keeping their ratio, enlarged where they are smaller; a data set
    that `sizes` does not name keeps its own size, if `others` allows it. window: None is the whole image at once."""

    name: str
    sizes: Mapping[str, Size]
    others: Literal["refused", "own size"]
    window: int | None = None
    stride: int | None = None

    def image_size(self, dataset: str, size: Size) -> Size:
        """The size at which an image of this size is shown to the model."""
        limit = self.sizes.get(dataset)
        if limit is None:
            if self.others == "refused":
                raise ValueError(
                    f"the protocol {self.name} says nothing about {dataset!r}; it knows {', '.join(self.sizes)}. Use "
                    "the protocol native"
                )
            return size
        return fit(size, limit)

    def describe(self, datasets: Iterable[str]) -> str:
        """What is printed beside the scores."""
        lines = [f"Protocol {self.name}: single scale, no flip."]
        for dataset in datasets:
            limit = self.sizes.get(dataset)
            shown = f"fitted into {limit[1]}x{limit[0]}, ratio kept" if limit else "at its own size"
            lines.append(f"{dataset}: {shown}")
        lines.append(
            f"Windows of {self.window}x{self.window} every {self.stride} pixels, logits averaged where they overlap."
            if self.window
            else "The whole image at once."
        )
        lines.append(
            "Logits are brought to the labels' size (bilinear) and compared there. One table counts all pixels of a "
            "data set whose label is a class; void predictions are false negatives; mIoU is the mean over classes that "
            "occur in labels or predictions, mAcc over classes that occur in labels."
        )
        return "\n".join(textwrap.fill(line, 118, subsequent_indent="  ") for line in lines)


def fit(size: Size, limit: Size) -> Size:
    """The largest size of the same ratio whose longer side is within the limit's longer one, and its shorter side
    within the shorter one; halves round up."""
    height, width = size
    if min(size) < 1 or min(limit) < 1:
        raise ValueError(f"sizes must be at least 1; got {size} into {limit}")
    # The fraction long / max(size) or short / min(size), whichever is smaller, in whole numbers.
    part, whole = min((max(limit), max(size)), (min(limit), min(size)), key=lambda fraction: fraction[0] / fraction[1])
    return max(1, (2 * height * part + whole) // (2 * whole)), max(1, (2 * width * part + whole) // (2 * whole))


_CLEAR = ("cityscapes", "bdd100k", "mapillary")
_ADVERSE = ("acdc", "dark_zurich")

PROTOCOLS: dict[str, Protocol] = {
    # FLEX-Seg's tables, by the architecture that they were made with.
    "paper-daformer": Protocol(
        "paper-daformer",
        dict.fromkeys(_CLEAR, (512, 1024)) | dict.fromkeys(_ADVERSE, (540, 960)),
        others="refused",
        window=512,
        stride=256,
    ),
    "paper-hrda": Protocol(
        "paper-hrda",
        dict.fromkeys(_CLEAR, (1024, 2048)) | dict.fromkeys(_ADVERSE, (1080, 1920)),
        others="refused",
        window=1024,
        stride=512,
    ),
    # The real-time study's: Cityscapes alone, at the size that it is trained at.
    "realtime": Protocol("realtime", {"cityscapes": (512, 1024)}, others="refused"),
    "native": Protocol("native", {}, others="own size"),
    "streets": Protocol("streets", {}, others="own size"),
}


def protocol_named(name: str, architecture: str = "") -> Protocol:
    """By its name; "paper" is the one that FLEX-Seg's tables were made with for this architecture: HRDA's at full
    size, every other's as DAFormer's."""
    if name == "paper":
        name = "paper-hrda" if architecture.startswith("hrda") else "paper-daformer"
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r}; take {', '.join(NAMES)}")
    return PROTOCOLS[name]


NAMES = ("native", "streets", "paper", "paper-daformer", "paper-hrda", "realtime")

# The averages of the paper's tables, and of the streets world's targets.
AVERAGES = {
    "Avg2": _ADVERSE,
    "Avg3": _CLEAR,
    "Avg5": (*_CLEAR, *_ADVERSE),
    "adverse": ADVERSE,
    "standard": STANDARD,
    "all": TARGETS,
}


def averages(mious: Mapping[str, float]) -> dict[str, float]:
    """Of data set -> mIoU, those averages whose data sets are all there."""
    return {
        name: sum(mious[dataset] for dataset in members) / len(members)
        for name, members in AVERAGES.items()
        if mious.keys() >= set(members)
    }


class Mergeable(Interface):
    def merge(self, other: Any) -> Any: ...


T = TypeVar("T", bound=Mergeable)


def by_dataset(domains: Mapping[str, T]) -> dict[str, T]:
    """ "acdc/fog", "acdc/night" … -> those and before them their sum "acdc": all conditions' pixels in one table. A
    condition that is alone is not called its data set."""
    found: dict[str, T] = {}
    for domain, counted in domains.items():
        dataset, _, condition = domain.partition("/")
        parts = [each for each in domains if each.partition("/")[0] == dataset]
        if condition and len(parts) > 1:
            # In the order of the first part: the sum stands before it.
            found[dataset] = found[dataset].merge(counted) if dataset in found else deepcopy(counted)
        found[domain] = counted
    return found


def whole_datasets(domains: Iterable[str]) -> set[str]:
    """Those of by_dataset's rows that averages may be made of: "acdc" is the mean over all its conditions or none."""
    rows = set(domains)
    return {row for row in rows if row != "acdc" or row not in _sums(rows) or rows >= {f"acdc/{c}" for c in CONDITIONS}}


def _sums(rows: set[str]) -> set[str]:
    return {row.partition("/")[0] for row in rows if "/" in row}
