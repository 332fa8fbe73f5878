"""CG-Aug: a labelled data set, with an unknown object pasted into every label map and drawn again under another domain.

A set is written as `pairs` reads it. Every file is written aside and renamed into place, the record of a sample
(records/<name>.json) last: what has one is done, also where no try was good enough. Stopped at any time, the same call
goes on. Everything is a function of (seed, sample, variant, try)."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dgseg.data.cutpaste import CutPaste, pasted
from dgseg.data.dataset import DataError, Dataset
from dgseg.data.datasets.pairs import (
    GENERATED,
    GENERATED_LABELS,
    IMAGE_SUFFIX,
    LABEL_SUFFIX,
    NUMBER,
    ORIGINAL_LABELS,
    ORIGINALS,
)
from dgseg.data.labels import OUT_OF_DISTRIBUTION
from dgseg.data.names import check_inside
from dgseg.data.sample import check_seed
from dgseg.data.sample import generator as random_of
from dgseg.generation.generator import Generator, Request
from dgseg.generation.quality import Filter

_PURPOSE = 0x67656E  # of the random numbers
RECORDS, SETTINGS = "records", "settings.json"
WEATHERS = ("clear", "cloudy", "rainy", "snowy", "foggy")
TIMES = ("at noon", "at dusk", "at dawn", "at night")


@dataclass(frozen=True)
class Settings:
    variants: int = 1
    """generated images per image of the data set"""
    tries: int = 5
    """for an image, until it passes the filter"""
    seed: int = 0
    prompt: str = (
        "A street seen through the windscreen of a car, {weather}, {time}. Something strange lies on the road."
    )
    """{weather} and {time} are drawn"""
    paste: CutPaste = field(default_factory=CutPaste)

    def __post_init__(self) -> None:
        if self.variants < 1 or self.tries < 1:
            raise ValueError(f"variants ({self.variants}) and tries ({self.tries}) start at 1")
        check_seed(self.seed)


DEFAULTS, ANY = Settings(), Filter()


@dataclass(frozen=True)
class Summary:
    accepted: int
    rejected: int  # samples of which no try was good enough
    tries: int  # of all samples together


def generate(
    dataset: Dataset,
    out: Path,
    generator: Generator,
    settings: Settings = DEFAULTS,
    quality: Filter = ANY,
    *,
    made_by: str = "",
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """made_by: says what generator and filter are; a set is gone on with by the same ones alone. part: (which, of how
    many): parts may be generated at the same time, also on different machines."""
    which, parts = part
    if not 0 <= which < parts:
        raise ValueError(f"part {which + 1} of {parts}: there is none")
    _claim(out, {"dataset": dataset.id(0), "samples": len(dataset), "made_by": made_by, **asdict(settings)})
    records = []
    for number in range(which, len(dataset) * settings.variants, parts):
        index, variant = divmod(number, settings.variants)
        name = f"{_name(dataset, index)}{NUMBER}{variant}"
        path = out / RECORDS / f"{name}.json"
        if not path.exists():
            _sample(dataset, index, number, name, out, generator, settings, quality)
        records.append(json.loads(path.read_text()))
        if progress is not None:
            progress(1)
    good = sum(record["accepted"] for record in records)
    return Summary(good, len(records) - good, sum(len(record["tries"]) for record in records))


def _sample(
    dataset: Dataset,
    index: int,
    number: int,
    name: str,
    out: Path,
    generator: Generator,
    settings: Settings,
    quality: Filter,
) -> None:
    sample = dataset[index]
    if sample.label is None:
        raise DataError(f"{dataset.name} has no labels here, and images are generated from label maps")
    label = sample.label.numpy()
    tries: list[dict[str, Any]] = []
    accepted = False
    rng = random_of(settings.seed, number, _PURPOSE)
    while not accepted and len(tries) < settings.tries:
        objects = settings.paste(label, rng)
        weather, time = WEATHERS[rng.integers(len(WEATHERS))], TIMES[rng.integers(len(TIMES))]
        prompt = settings.prompt.replace("{weather}", weather).replace("{time}", time)
        shown = pasted(label, objects)
        request = Request(shown, objects, prompt, int(rng.integers(1 << 31)), index)
        if not objects.any():
            tries.append({"prompt": prompt, "seed": request.seed, "reason": "the label map has no road"})
            break
        image = generator(request)
        verdict = quality(image, objects)
        accepted = verdict.good
        tries.append(
            {
                "prompt": prompt,
                "seed": request.seed,
                "iou": verdict.iou,
                "score": verdict.score if verdict.score is None or math.isfinite(verdict.score) else None,
                "reason": verdict.reason,
            }
        )
    if accepted:
        source = name.rpartition(NUMBER)[0]
        original = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
        _picture(out / ORIGINALS / (source + IMAGE_SUFFIX), original)
        _picture(out / ORIGINAL_LABELS / (source + LABEL_SUFFIX), label)
        _picture(out / GENERATED_LABELS / (name + LABEL_SUFFIX), shown)
        _picture(out / GENERATED / (name + IMAGE_SUFFIX), image)
    record = {
        "file_name": f"{GENERATED}/{name}{IMAGE_SUFFIX}" if accepted else None,
        "class": OUT_OF_DISTRIBUTION,
        "class_name": "unknown",
        "source": sample.id,
        "accepted": accepted,
        "tries": tries,
    }
    _text(out / RECORDS / f"{name}.json", json.dumps(record, indent=1))


def _claim(out: Path, settings: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(settings))  # as it will be read: no tuples
    path = out / SETTINGS
    if not path.exists():
        # Another part may be about to write it, aside.
        if out.is_dir() and any(not each.name.startswith(".") for each in out.iterdir()):
            raise DataError(f"{out} holds other things: name a new folder, or one that was begun here")
        _text(path, json.dumps(wanted, indent=1))
    begun = json.loads(path.read_text())
    if begun != wanted:
        differs = ", ".join(key for key in wanted if begun.get(key) != wanted[key])
        raise DataError(f"{out} was begun with another {differs}: name another folder, or go on as it was begun")


def _name(dataset: Dataset, index: int) -> str:
    """The sample's id without the data set's name: also a path below the set's folders."""
    return check_inside(dataset.id(index).removeprefix(f"{dataset.name}/"), f"{dataset.name}: the id")


def _picture(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    _aside(path, lambda aside: Image.fromarray(pixels).save(aside, "PNG"))


def _text(path: Path, text: str) -> None:
    _aside(path, lambda aside: aside.write_text(text + "\n"))


def _aside(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def scorer_of(model: Any, name: str) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.floating[Any]]]:
    """A trained model as the filter asks it; name: of dgseg.evaluation.scorers."""
    from dgseg.evaluation.scorers import anomaly_scores, scorer

    chosen = scorer(name)

    def scores(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating[Any]]:
        images = torch.from_numpy(np.array(image.transpose(2, 0, 1)))[None]
        found: npt.NDArray[np.floating[Any]] = anomaly_scores(model, images, chosen)[0].numpy()
        return found

    return scores
