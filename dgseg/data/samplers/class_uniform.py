"""Class-uniform sampling (BlindNet): half of the draws begin with a class, every class alike."""

import numpy as np
import numpy.typing as npt

from dgseg.data.sample import Draw
from dgseg.data.samplers.base import SourceSampler
from dgseg.data.samplers.permutation import permuted
from dgseg.data.samplers.rare_class import ClassIndex


class ClassUniform(SourceSampler):
    """With probability `share` any class that occurs, then any image with at least `min_pixels` of it, to be cropped
    around the class; else the image that is next in the epoch's order, wherever the crop falls."""

    def __init__(
        self,
        class_pixels: npt.NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        source: int = 0,
        share: float = 0.5,
        min_pixels: int = 1,
    ) -> None:
        super().__init__(len(class_pixels), batch_size, seed, source)
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; it must lie in 0 to 1")
        self.share = share
        self.classes = ClassIndex(class_pixels, min_pixels, source)
        self._occurring = np.flatnonzero(self.classes.found)

    def draw(self, number: int) -> Draw:
        random = self.generator(number)
        if random.random() >= self.share:
            epoch, position = divmod(number, self.size)
            return Draw(number, self.source, permuted(position, self.size, self.seed, self.source, epoch))
        wanted = int(self._occurring[random.integers(len(self._occurring))])
        images = self.classes.images[wanted]
        return Draw(number, self.source, int(images[random.integers(len(images))]), wanted)
