"""What every augmentation is: a frozen dataclass whose fields are its configuration, called with a generator."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from torch import Tensor

from dgseg.data.sample import Draw, LazySample, Sample

AnySample = Sample | LazySample


class Transform(ABC):
    """Applied with probability p. All its randomness comes from `rng`, which belongs to one draw: the same pixels in
    whichever process and order."""

    p: float
    geometric: ClassVar[bool]  # moves pixels, and then moves every map of the sample alike

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"{type(self).__name__}: p is a probability, from 0 to 1; it is {self.p}")

    def __call__(self, sample: AnySample, rng: np.random.Generator, draw: Draw) -> AnySample:
        return self.apply(sample, rng, draw) if rng.random() < self.p else sample

    @abstractmethod
    def apply(self, sample: AnySample, rng: np.random.Generator, draw: Draw) -> AnySample: ...


def mapped(sample: Sample, image: Callable[[Tensor], Tensor], maps: Callable[[Tensor], Tensor]) -> Sample:
    """`image` over the image, `maps` over label and extra maps; over those of its views, too."""
    return Sample(
        image(sample.image),
        None if sample.label is None else maps(sample.label),
        sample.id,
        {name: maps(each) for name, each in sample.extra.items()},
        {name: mapped(view, image, maps) for name, view in sample.views.items()},
    )
