"""Flip and resize. Images bilinear with antialiasing, maps by the pixel whose centre is nearest, so that both describe
the same place: OpenCV's and torch's "nearest" takes floor(i·H/h) instead and shifts labels by up to half a pixel."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dgseg.data.augment.transform import AnySample, Transform, mapped
from dgseg.data.sample import Draw, Sample


@dataclass(frozen=True)
class Flip(Transform):
    """Left becomes right."""

    p: float = 0.5
    geometric: ClassVar[bool] = True

    def apply(self, sample: AnySample, rng: np.random.Generator, draw: Draw) -> Sample:
        return mapped(sample.whole(), _mirrored, _mirrored)


def _mirrored(image: Tensor) -> Tensor:
    return image.flip(-1)


@dataclass(frozen=True)
class Resize(Transform):
    """To `size`, times a factor drawn from `ratio`; with `keep_ratio` to the largest size of the image's own shape
    that fits into that. `size=None` is the image's own size."""

    size: tuple[int, int] | None = None
    ratio: tuple[float, float] = (1.0, 1.0)
    keep_ratio: bool = False
    # The image alone: scores are taken at the label's own resolution.
    image_only: bool = False
    p: float = 1.0
    geometric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"Resize: size is (height, width), each at least 1; it is {self.size}")
        check_range("Resize: ratio", self.ratio)

    def apply(self, sample: AnySample, rng: np.random.Generator, draw: Draw) -> AnySample:
        height, width = sample.size
        wanted_height, wanted_width = self.size or sample.size
        factor = rng.uniform(*self.ratio)
        down, across = factor * wanted_height / height, factor * wanted_width / width
        if self.keep_ratio:
            down = across = min(down, across)
        size = max(1, round(height * down)), max(1, round(width * across))
        if size == sample.size:
            return sample
        whole = sample.whole()
        return (
            mapped(whole, lambda image: resized_image(image, size), _same) if self.image_only else resized(whole, size)
        )


def _same(each: Tensor) -> Tensor:
    return each


def check_range(name: str, bounds: tuple[float, float]) -> None:
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f"{name} is (least, most), both above 0; it is {bounds}")


def resized(sample: Sample, size: tuple[int, int]) -> Sample:
    return mapped(sample, lambda image: resized_image(image, size), lambda each: resized_map(each, size))


def resized_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    if size[1] == 1 < size[0]:  # torch's antialiasing (2.14) repeats the first row in images one pixel wide
        return resized_image(image.mT, (1, size[0])).mT
    # Its kernel for bytes takes images of one row or column for another memory layout: wrong pixels, or an error.
    thin = min(*size, *image.shape[-2:]) == 1
    image = image.contiguous().float() if thin else image
    # By way of rows first: a batch of one keeps the strides of decoded images, which torch's kernel writes fastest.
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    out = interpolate(batch, size, mode="bilinear", antialias=True)[0]
    return out.round_().to(torch.uint8) if thin else out


def resized_map(each: Tensor, size: tuple[int, int]) -> Tensor:
    """Any dtype; whole numbers all the way, so no rounding decides between two pixels."""
    if each.shape[-2:] == size:
        return each
    rows, columns = (
        (2 * torch.arange(to) + 1) * have // (2 * to) for have, to in zip(each.shape[-2:], size, strict=True)
    )
    return each.index_select(-2, rows).index_select(-1, columns)
