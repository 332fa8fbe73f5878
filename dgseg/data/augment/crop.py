"""Random crops: chosen on the label, retried on the label, and only then cut out of (or decoded from) the image."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dgseg.data.augment.geometry import check_range, resized, resized_map
from dgseg.data.augment.transform import AnySample, Transform
from dgseg.data.labels import VOID
from dgseg.data.sample import Box, Draw, Sample

IMAGENET_MEAN = (124, 116, 104)  # becomes about 0 where images are normalised


@dataclass(frozen=True)
class Crop(Transform):
    """A window of `size`. With `scale` the image is first scaled by a factor drawn from it: the window is cut out of
    the unscaled image and only then resized, which shows the same pixels for less work.

    Placed anew, at most `tries` times, until no class covers more than `max_class_share` of the labelled pixels; and
    all that again, at most `tries` times, until a draw's wanted class covers `wanted_pixels`. The last try stands.
    With `around_wanted` the window holds the centroid of the wanted class, in a random one of the `tile`-sized tiles
    that hold this class. Where the image is smaller than the window, the rest is filled: labels with 255.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    max_class_share: float = 0.75
    wanted_pixels: int = 0
    tries: int = 10
    around_wanted: bool = False
    tile: int = 1024
    fill: tuple[int, int, int] = IMAGENET_MEAN
    p: float = 1.0
    geometric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(*self.size, self.tries, self.tile) < 1 or self.wanted_pixels < 0:
            raise ValueError("Crop: size, tries and tile must be at least 1, wanted_pixels at least 0")
        if not 0 < self.max_class_share <= 1:
            raise ValueError(f"Crop: max_class_share lies in (0, 1], 1 for no limit; it is {self.max_class_share}")
        check_range("Crop: scale", self.scale)

    def apply(self, sample: AnySample, rng: np.random.Generator, draw: Draw) -> Sample:
        factor = rng.uniform(*self.scale)
        # Per side: what is cut out of the unscaled image, and what that becomes.
        cut, shown = zip(*(_window(h, s, factor) for h, s in zip(sample.size, self.size, strict=True)), strict=True)
        box = self._choose(sample, rng, draw.wanted_class, cut, shown)
        return padded(resized(sample.crop(box), shown), self.size, self.fill)

    def _choose(
        self, sample: AnySample, rng: np.random.Generator, wanted: int, cut: tuple[int, int], shown: tuple[int, int]
    ) -> Box:
        label = sample.label
        if label is None:
            if wanted >= 0:
                raise ValueError(f"{sample.id}: a draw asks for class {wanted}, but this source has no labels")
            return _place(rng, sample.size, cut)
        centre = _centroid(label, wanted, self.tile, rng) if self.around_wanted and wanted >= 0 else None
        seek = wanted >= 0 and self.wanted_pixels > 0
        if seek and cut == shown and int((label == wanted).sum()) < self.wanted_pixels:
            seek = False  # no place has enough; the last of ten independent tries is as good as one
        for _ in range(self.tries if seek else 1):
            for _ in range(self.tries if self.max_class_share < 1 else 1):
                box = _place(rng, sample.size, cut, centre)
                seen = resized_map(box.of(label), shown)
                if self.max_class_share == 1 or largest_share(seen) <= self.max_class_share:
                    break
            if seek and int((seen == wanted).sum()) >= self.wanted_pixels:
                break
        return box


def _window(have: int, size: int, factor: float) -> tuple[int, int]:
    """How much of a side is cut out, and how long that is after scaling by the factor: at most `size`."""
    wanted = max(1, round(size / factor))
    return (wanted, size) if wanted <= have else (have, min(size, max(1, round(have * factor))))


def _place(
    rng: np.random.Generator, size: tuple[int, int], cut: tuple[int, int], holding: tuple[int, int] | None = None
) -> Box:
    lows, highs = [0, 0], [have - part for have, part in zip(size, cut, strict=True)]
    if holding is not None:
        lows = [max(0, at - part + 1) for at, part in zip(holding, cut, strict=True)]
        highs = [min(at, high) for at, high in zip(holding, highs, strict=True)]
    top, left = rng.integers(lows, highs, endpoint=True)
    return Box(int(top), int(left), *cut)


def _centroid(label: Tensor, wanted: int, tile: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """None where the class does not occur: the crop then goes anywhere."""
    places = (label == wanted).nonzero()
    if not len(places):
        return None
    tiles = (places // tile) @ torch.tensor([label.shape[1] // tile + 1, 1])
    held = tiles.unique()
    row, column = places[tiles == held[int(rng.integers(len(held)))]].double().mean(0).tolist()
    return int(row), int(column)


def largest_share(label: Tensor) -> float:
    """Of the labelled pixels, the share of the class that has most; 1 where nothing is labelled."""
    counts = label.flatten().bincount(minlength=256)[:VOID]
    return int(counts.max()) / max(1, int(counts.sum())) if counts.any() else 1.0


def padded(sample: Sample, size: tuple[int, int], fill: tuple[int, int, int] = IMAGENET_MEAN) -> Sample:
    """To at least `size`, on the right and below."""
    down, across = (max(0, wanted - have) for have, wanted in zip(sample.size, size, strict=True))
    if not down and not across:
        return sample
    edges = (0, across, 0, down)
    image = torch.stack([pad(channel, edges, value=value) for channel, value in zip(sample.image, fill, strict=True)])
    return Sample(
        image,
        None if sample.label is None else pad(sample.label, edges, value=VOID),
        sample.id,
        {name: pad(each, edges) for name, each in sample.extra.items()},
        {name: padded(view, size, fill) for name, view in sample.views.items()},
    )


@dataclass(frozen=True)
class Pad(Transform):
    """To at least `size`, on the right and below; labels with 255, extra maps with 0."""

    size: tuple[int, int]
    fill: tuple[int, int, int] = IMAGENET_MEAN
    p: float = 1.0
    geometric: ClassVar[bool] = True

    def apply(self, sample: AnySample, rng: np.random.Generator, draw: Draw) -> Sample:
        return padded(sample.whole(), self.size, self.fill)
