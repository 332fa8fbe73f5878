"""Data sets to batches that are scored: decoded and resized by worker processes, a bounded number of them ahead.

A batch is a function of the data sets and the batch size alone, and ranks share out batches: the same images meet in
one pass of the model for any number of ranks, which is what makes their scores equal to the last digit."""

import warnings
from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dgseg.data.dataset import CorruptFile, DataError, Dataset, DataWarning
from dgseg.data.datasets import dataset_class, from_spec, open_dataset, parse_spec
from dgseg.data.sample import Sample
from dgseg.data.workers import START_METHOD, death_of, end, new_workers
from dgseg.evaluation.maps import outside_map
from dgseg.evaluation.protocols import Protocol

PREFETCH = 2  # batches per worker


def scored_dataset(text: str) -> Dataset:
    """A data set by its specification; where `train` is the default, scores come from `val`."""
    spec = parse_spec(text)
    kind = dataset_class(spec.name)
    if spec.split is None and getattr(kind, "default_split", None) == "train" and "val" in getattr(kind, "splits", ()):
        return open_dataset(spec.name, spec.path, "val", **spec.options)
    dataset = from_spec(text)
    if getattr(dataset, "resized", False):
        warnings.warn(
            f"{text}: the labels were resized when they were packed; scores do not compare with those of "
            f"{dataset.domain}'s own files",
            DataWarning,
            stacklevel=2,
        )
    return dataset


@dataclass(frozen=True)
class Shown:
    """Images of one size with labels of one size, as the protocol shows them."""

    dataset: int  # its place
    indices: list[int]
    images: Tensor  # uint8 [N, 3, h, w], channels last
    labels: Tensor  # uint8 [N, H, W]
    outside: Tensor | None  # uint8 [N, H, W]: 0 inside the distribution, 1 outside, 255 void

    def pin_memory(self) -> "Shown":
        outside = None if self.outside is None else self.outside.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), outside=outside)


@dataclass(frozen=True)
class Corrupt:
    dataset: int
    index: int
    reason: str  # begins with the path


@dataclass(frozen=True)
class Loaded:
    shown: list[Shown]
    corrupt: list[Corrupt]

    def pin_memory(self) -> "Loaded":
        return replace(self, shown=[each.pin_memory() for each in self.shown])


class Batches(TorchDataset[Loaded]):
    """The batches of all data sets, each of one data set's consecutive images. Travels to the workers by pickle."""

    def __init__(
        self, datasets: Sequence[Dataset], protocol: Protocol, batch_size: int, outside: bool, limit: int | None = None
    ) -> None:
        """outside: with maps of what is out of distribution. limit: at most this many images of each data set."""
        self.datasets, self.protocol, self.batch_size, self.outside = tuple(datasets), protocol, batch_size, outside
        self._lengths = [len(range(len(dataset))[:limit]) for dataset in datasets]
        self._starts = [0]
        for length in self._lengths:
            self._starts.append(self._starts[-1] - (-length // batch_size))

    def __len__(self) -> int:
        return self._starts[-1]

    def place(self, batch: int) -> tuple[int, range]:
        """The data set and its images."""
        dataset = bisect_right(self._starts, batch) - 1
        first = (batch - self._starts[dataset]) * self.batch_size
        return dataset, range(first, min(first + self.batch_size, self._lengths[dataset]))

    def images(self, batches: range) -> int:
        return sum(len(self.place(batch)[1]) for batch in batches)

    def __getitem__(self, batch: int) -> Loaded:
        place, indices = self.place(batch)
        dataset = self.datasets[place]
        # By size: a data set's images need not be alike.
        groups: dict[tuple[tuple[int, int], tuple[int, int]], list[tuple[int, Sample]]] = {}
        corrupt = []
        for index in indices:
            try:
                sample = dataset[index]
            except CorruptFile as error:
                corrupt.append(Corrupt(place, index, str(error)))
                continue
            if sample.label is None:
                raise DataError(
                    f"{sample.id} has no label: {dataset.domain} is used without labels here; nothing to score"
                )
            size = self.protocol.image_size(dataset.name, sample.size)
            groups.setdefault((size, sample.size), []).append((index, sample))
        return Loaded([self._shown(place, size, group) for (size, _), group in groups.items()], corrupt)

    def _shown(self, dataset: int, size: tuple[int, int], group: list[tuple[int, Sample]]) -> Shown:
        samples = [sample for _, sample in group]
        labels = [sample.label for sample in samples if sample.label is not None]
        outside = [_outside(sample, label) for sample, label in zip(samples, labels, strict=True)]
        return Shown(
            dataset,
            [index for index, _ in group],
            torch.stack([resized(sample.image, size) for sample in samples]).contiguous(
                memory_format=torch.channels_last
            ),
            torch.stack(labels),
            torch.stack(outside) if self.outside else None,
        )


def _outside(sample: Sample, label: Tensor) -> Tensor:
    """Sets that name no classes bring a map: their labels cannot tell what is inside."""
    given = sample.extra.get("out_of_distribution")
    return outside_map(label[None])[0] if given is None else given


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [3, H, W] bilinearly at another size, without antialiasing: what the published protocols do."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def load(batches: Batches, mine: range, *, workers: int, pin: bool) -> Generator[Loaded]:
    with new_workers() as processes:
        loaded = iter(
            DataLoader(
                batches,
                batch_size=None,
                sampler=mine,
                collate_fn=_unchanged,
                num_workers=min(workers, len(mine)),
                prefetch_factor=PREFETCH if workers and mine else None,
                multiprocessing_context=START_METHOD if workers and mine else None,
                pin_memory=pin,
                generator=torch.Generator(),  # else it takes a number from the caller's own
            )
        )
    try:
        yield from loaded
    except (RuntimeError, OSError, EOFError) as error:
        death = death_of(processes)
        if not death:
            raise
        raise RuntimeError(
            f"loading: {death}. SIGKILL: memory ran out, take fewer workers than {workers}. SIGBUS: /dev/shm is too "
            "small (docker run --shm-size). Otherwise workers=0 shows what happens"
        ) from error
    finally:
        end(processes)


def _unchanged(loaded: Any) -> Any:  # typed as torch wants its collate_fn
    return loaded
