"""Rare-class sampling (DAFormer): first a class, rare ones more often, then an image that holds it."""

import logging

import numpy as np
import numpy.typing as npt

from dgseg.data.dataset import DataError
from dgseg.data.labels import CLASSES
from dgseg.data.sample import Draw
from dgseg.data.samplers.base import SourceSampler

log = logging.getLogger(__name__)


class ClassIndex:
    """For every class the images with at least `min_pixels` of it."""

    def __init__(self, class_pixels: npt.NDArray[np.int64], min_pixels: int, source: int) -> None:
        if class_pixels.ndim != 2 or (class_pixels.size and class_pixels.min() < 0):
            raise ValueError(f"class_pixels are counts [images, classes]; they have shape {list(class_pixels.shape)}")
        if min_pixels < 1:
            raise ValueError(f"min_pixels is {min_pixels}; an image that holds a class has at least 1 pixel of it")
        columns = range(class_pixels.shape[1])
        self.images = [np.flatnonzero(class_pixels[:, c] >= min_pixels).astype(np.uint32) for c in columns]
        self.found = np.array([len(images) > 0 for images in self.images])
        if not self.found.any():
            raise DataError(
                f"no image of source {source} has {min_pixels} pixels of any class: lower min_pixels (3000 is meant "
                "for images of two megapixels) or count the classes anew with `dgseg data check`"
            )
        if not self.found.all():
            named = CLASSES if len(self.found) == len(CLASSES) else [str(c) for c in columns]
            absent = ", ".join(name for name, found in zip(named, self.found, strict=True) if not found)
            log.warning("source %d: never asked for, no image has %d pixels of them: %s", source, min_pixels, absent)


class RareClass(SourceSampler):
    """A class with probability softmax((1 - frequency) / temperature), then any image with at least `min_pixels` of it.
    The paper's 3000 pixels are meant for images of GTA's size: scale them with yours."""

    def __init__(
        self,
        class_pixels: npt.NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        source: int = 0,
        temperature: float = 0.01,
        min_pixels: int = 3000,
    ) -> None:
        super().__init__(len(class_pixels), batch_size, seed, source)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        self.classes = ClassIndex(class_pixels, min_pixels, source)
        totals = class_pixels.sum(0, dtype=np.float64)
        rarity = np.where(self.classes.found, (1 - totals / totals.sum()) / temperature, -np.inf)
        weights = np.exp(rarity - rarity.max())
        self.probabilities = weights / weights.sum()
        self._cumulative = np.cumsum(self.probabilities)

    def draw(self, number: int) -> Draw:
        random = self.generator(number)
        # The last class that can be drawn takes what rounding leaves above the sum.
        last = int(np.flatnonzero(self.probabilities)[-1])
        wanted = min(int(np.searchsorted(self._cumulative, random.random(), side="right")), last)
        images = self.classes.images[wanted]
        return Draw(number, self.source, int(images[random.integers(len(images))]), wanted)
