"""The papers' subsets, chosen reproducibly: the same files and seed give the same list.

gta5-rare-6000    FLEX-Seg's 6,000 images "selected from the original GTA dataset based on rare-class criteria". Read as
                  its rare-class sampling without repetition: a class is drawn with probability
                  softmax((1 − frequency) / T), T = 0.01, then one of the images that hold at least 3,000 pixels of it
                  and are not yet chosen, until 6,000 are. A class that runs out of images leaves the draw.
gta5-2500         the real-time adaptation paper's 2,500 of GTA5: it does not say which, so they are drawn evenly.
cityscapes-2072   its 2,072 fine images "selected from specific cities": the 1,572 of the ten training cities from
                  hanover to zurich and the 500 of val. These sums are exact, and code of the same course names these
                  cities.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dgseg.data.dataset import DataError, Dataset
from dgseg.data.datasets import open_dataset
from dgseg.data.datasets.cityscapes import TRAIN_CITIES
from dgseg.data.files import FileDataset

CITIES_OF_2072 = (
    "hanover", "jena", "krefeld", "monchengladbach", "strasbourg", "stuttgart", "tubingen", "ulm", "weimar", "zurich",
)  # fmt: skip


@dataclass(frozen=True)
class Selection:
    ids: list[str]  # in the order of the dataset
    header: dict[str, Any]


@dataclass(frozen=True)
class Preset:
    dataset: str
    splits: tuple[str, ...]
    count: int
    says: str
    choose: Callable[[Mapping[str, Dataset], int, np.random.Generator], dict[str, list[int]]]
    counts_classes: bool = False


def select(preset: str, root: Path | str, *, seed: int = 0, **options: Any) -> Selection:
    chosen = PRESETS[preset]
    datasets = {split: open_dataset(chosen.dataset, root, split, **options) for split in chosen.splits}
    indices = chosen.choose(datasets, chosen.count, np.random.Generator(np.random.Philox(seed)))
    ids = [datasets[split].id(index) for split, kept in indices.items() for index in sorted(kept)]
    assert len(set(ids)) == chosen.count
    header = {
        "preset": preset,
        "seed": seed,
        "dataset": chosen.dataset,
        "digest": {split: dataset.digest() for split, dataset in datasets.items() if isinstance(dataset, FileDataset)},
        "images": {split: len(kept) for split, kept in indices.items()},
    }
    return Selection(ids, header)


def class_probabilities(pixels: npt.NDArray[np.int64], temperature: float) -> npt.NDArray[np.float64]:
    """softmax((1 − frequency) / T) over the classes that occur; pixels [images, classes]."""
    total = pixels.sum(0)
    score = (1 - total / total.sum()) / temperature
    weight = np.where(total > 0, np.exp(score - score[total > 0].max()), 0.0)
    return np.asarray(weight / weight.sum())


def choose_rare(
    pixels: npt.NDArray[np.int64],
    number: int,
    random: np.random.Generator,
    *,
    temperature: float = 0.01,
    least: int = 3000,
) -> list[int]:
    """`number` different images by rare-class sampling."""
    probabilities = class_probabilities(pixels, temperature)
    # Every class has its images in random order; those that another class took already are passed over.
    queues = [list(_shuffled(np.flatnonzero(of_class >= least), random)) for of_class in pixels.T]
    taken = np.zeros(len(pixels), np.bool_)
    chosen: list[int] = []
    while len(chosen) < number:
        for queue in queues:
            while queue and taken[queue[-1]]:
                queue.pop()
        open_ = np.array([bool(queue) for queue in queues]) * probabilities
        if not open_.any():
            raise DataError(
                f"only {len(chosen)} images hold {least} pixels of some class, {number} are wanted; unpack the "
                "whole dataset"
            )
        steps = np.cumsum(open_)
        drawn = int(np.searchsorted(steps, random.random() * steps[-1], side="right"))
        index = int(queues[drawn].pop())
        taken[index] = True
        chosen.append(index)
    return chosen


def _rare(datasets: Mapping[str, Dataset], number: int, random: np.random.Generator) -> dict[str, list[int]]:
    ((split, dataset),) = datasets.items()
    _enough(dataset, number)
    return {split: choose_rare(dataset.class_pixels(), number, random)}


def _even(datasets: Mapping[str, Dataset], number: int, random: np.random.Generator) -> dict[str, list[int]]:
    ((split, dataset),) = datasets.items()
    _enough(dataset, number)
    return {split: [int(index) for index in _shuffled(np.arange(len(dataset)), random)[:number]]}


def _cities(datasets: Mapping[str, Dataset], number: int, random: np.random.Generator) -> dict[str, list[int]]:
    train = datasets["train"]
    cities = [train.id(index).split("/")[1] for index in range(len(train))]
    for city in CITIES_OF_2072:
        if cities.count(city) != TRAIN_CITIES[city]:
            raise DataError(
                f"cityscapes/train: {cities.count(city)} images of {city} instead of {TRAIN_CITIES[city]}; unpack "
                "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip again"
            )
    kept = [index for index, city in enumerate(cities) if city in CITIES_OF_2072]
    held_out = list(range(len(datasets["val"])))
    if len(kept) + len(held_out) != number:
        raise DataError(
            f"cityscapes/val: {len(held_out)} images instead of {number - len(kept)}; unpack the archives again"
        )
    return {"train": kept, "val": held_out}


def _shuffled(indices: npt.NDArray[np.intp], random: np.random.Generator) -> npt.NDArray[np.intp]:
    """By uniform numbers alone: what numpy's own permutation makes of a seed may change between its versions."""
    return indices[np.argsort(random.random(len(indices)), kind="stable")]


def _enough(dataset: Dataset, number: int) -> None:
    if len(dataset) < number:
        raise DataError(f"{dataset.name}: {len(dataset)} images, {number} are to be chosen; unpack the whole dataset")


PRESETS = {
    "gta5-rare-6000": Preset("gta5", ("all",), 6000, "6,000 rare-class images of GTA5 (FLEX-Seg)", _rare, True),
    "gta5-2500": Preset("gta5", ("all",), 2500, "2,500 of GTA5 (real-time domain adaptation)", _even),
    "cityscapes-2072": Preset(
        "cityscapes",
        ("train", "val"),
        2072,
        "2,072 of chosen cities of Cityscapes (real-time domain adaptation)",
        _cities,
    ),
}
