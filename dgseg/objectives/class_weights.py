"""Weights of classes: numbers, or the median-frequency rule, which needs a dataset to become numbers."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MEDIAN_FREQUENCY: Final = "median_frequency"
ClassWeight = tuple[float, ...] | Literal["median_frequency"] | None
Config = TypeVar("Config")


def median_frequency_weights(
    class_pixels: npt.ArrayLike, pixels_per_image: npt.ArrayLike | None = None
) -> tuple[float, ...]:
    """median(frequency) / frequency, where a class's frequency is its share of the pixels of the images that have it.
    A class that no image has weighs 0 and is not in the median.

    class_pixels: [images, classes], as dataset.class_pixels() counts them. pixels_per_image: one number, or one per
    image, void ones included; None: the pixels that have a class.
    """
    counts = np.asarray(class_pixels, dtype=np.float64)
    if counts.ndim != 2:
        raise ValueError(f"class_pixels must be [images, classes]; it has shape {list(counts.shape)}")
    totals = counts.sum(1) if pixels_per_image is None else np.asarray(pixels_per_image, dtype=np.float64)
    totals = np.broadcast_to(totals, len(counts))
    if (counts.sum(1) > totals).any():
        raise ValueError("pixels_per_image is smaller than the pixels that were counted in an image")
    pixels = counts.sum(0)
    present = pixels > 0
    if not present.any():
        raise ValueError("no image has a pixel of any class: there is no frequency to take the median of")
    frequency = pixels[present] / ((counts > 0) * totals[:, None]).sum(0)[present]
    weights = np.zeros(counts.shape[1])
    weights[present] = np.median(frequency) / frequency
    return tuple(float(weight) for weight in weights)


def wants_median_frequency(config: Any) -> bool:
    """Whether an objective's config holds the word in place of numbers."""
    return any(getattr(config, each.name) == MEDIAN_FREQUENCY for each in fields(config))


def with_median_frequency(config: Config, weights: tuple[float, ...]) -> Config:
    """The config with these numbers wherever it holds the word."""
    wanting = [each.name for each in fields(config) if getattr(config, each.name) == MEDIAN_FREQUENCY]  # type: ignore[arg-type]
    return replace(config, **dict.fromkeys(wanting, weights))  # type: ignore[type-var]


def tensor_of(name: str, weights: Sequence[float] | str | None, num_classes: int) -> Tensor | None:
    if weights is None:
        return None
    if isinstance(weights, str):
        raise ValueError(
            f"{name} is {weights!r}, a rule: an objective takes numbers. with_median_frequency(config, "
            f"median_frequency_weights(dataset.class_pixels())) puts them in its place"
        )
    if len(weights) != num_classes:
        raise ValueError(f"{name} has {len(weights)} numbers for {num_classes} classes")
    if not all(0 <= weight < float("inf") for weight in weights):
        raise ValueError(f"{name} must be finite and at least 0; it is {tuple(weights)}")
    return torch.tensor(weights, dtype=torch.float32)
