"""Every file of a dataset read once: does it decode, do image and label fit, what do the labels hold, and does
validation repeat what training has seen."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dgseg.data.dataset import CorruptFile
from dgseg.data.files import FileDataset
from dgseg.data.labels import NUM_CLASSES, OUT_OF_DISTRIBUTION, VOID
from dgseg.data.parallel import each
from dgseg.data.statistics import count, store_class_pixels

_HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Finding:
    """What one pair of files holds, or why it is bad."""

    problem: str | None = None
    size: tuple[int, int] = (0, 0)  # width, height
    pixels: npt.NDArray[np.int64] | None = None  # per train id, then out of distribution, then void
    content: bytes = b""  # digest of the image's pixels


@dataclass
class SplitReport:
    dataset: str
    split: str
    files: int
    expected: int | None
    quarantined: int
    sizes: Counter[tuple[int, int]]
    bad: list[tuple[str, str]]  # sample id, reason
    classes: npt.NDArray[np.int64]  # pixels per train id
    void: int
    out_of_distribution: int
    repeated: int  # images that occur more than once inside the split
    contents: dict[bytes, list[str]] = field(repr=False, default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.expected is None or self.expected == self.files + self.quarantined


@dataclass(frozen=True)
class Report:
    splits: list[SplitReport]
    leaks: list[tuple[str, str]]  # ids: of training, of validation or test, with the same pixels

    @property
    def clean(self) -> bool:
        return not self.leaks and all(split.complete and not split.bad and split.files for split in self.splits)

    def quarantine(self) -> list[tuple[str, str]]:
        """What training has to skip: bad pairs, and training's copies of held-out images."""
        bad = [entry for split in self.splits for entry in split.bad]
        return bad + [(train, f"same image as {held_out}") for train, held_out in self.leaks]


def check(
    datasets: Sequence[FileDataset], *, workers: int | None = None, progress: Callable[[int], None] | None = None
) -> Report:
    """Datasets opened with strict=False, one per split. Fills the cache of class frequencies, without what is bad."""
    reports = [_check_split(dataset, workers, progress) for dataset in datasets]
    train = [report for report in reports if report.split not in _HELD_OUT]
    held_out = [report for report in reports if report.split in _HELD_OUT]
    leaks = [
        (copy, target.contents[content][0])
        for source in train
        for target in held_out
        for content in sorted(source.contents.keys() & target.contents.keys(), key=source.contents.__getitem__)
        for copy in source.contents[content]
    ]
    return Report(reports, leaks)


def _check_split(dataset: FileDataset, workers: int | None, progress: Callable[[int], None] | None) -> SplitReport:
    findings = each(_Scanner(dataset), len(dataset), workers=workers, progress=progress)
    good = np.array([finding.problem is None for finding in findings], np.bool_)
    values = np.zeros((len(findings), NUM_CLASSES + 2), np.int64)
    contents: dict[bytes, list[str]] = {}
    bad = list(dataset.unpaired)
    sizes: Counter[tuple[int, int]] = Counter()
    for index, finding in enumerate(findings):
        if finding.problem is not None:
            bad.append((dataset.id(index), finding.problem))
            continue
        sizes[finding.size] += 1
        contents.setdefault(finding.content, []).append(dataset.id(index))
        if finding.pixels is not None:
            values[index] = finding.pixels
    if dataset.labels and good.any():
        store_class_pixels(dataset.subset(good), values[good, :NUM_CLASSES])
    total = values.sum(0)
    return SplitReport(
        dataset=dataset.name,
        split=dataset.split,
        files=len(dataset) + len(dataset.unpaired),
        expected=dataset.expected(),
        quarantined=dataset.quarantined,
        sizes=sizes,
        bad=bad,
        classes=total[:NUM_CLASSES],
        out_of_distribution=int(total[NUM_CLASSES]),
        void=int(total[NUM_CLASSES + 1]),
        repeated=int(good.sum()) - len(contents),
        contents=contents,
    )


class _Scanner:
    def __init__(self, dataset: FileDataset) -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> Finding:
        dataset = self.dataset
        try:
            dataset.verify_checksums(index)
            image = dataset.read_image(index)
            pixels = None
            if dataset.labels:
                label, _ = dataset.read_label(index)
                dataset.check_sizes(index, image, label)
                pixels = count(label)[[*range(NUM_CLASSES), OUT_OF_DISTRIBUTION, VOID]]
        except CorruptFile as error:
            return Finding(str(error))
        height, width = image.shape[:2]
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
        digest.update(image.data)
        return Finding(None, (width, height), pixels, digest.digest())
