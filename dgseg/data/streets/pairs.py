"""The streets world twice: a source's scenes, each beside itself as a generator would redraw it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dgseg import _host
from dgseg.data.cutpaste import CutPaste, Map
from dgseg.data.dataset import DataError
from dgseg.data.sample import Sample, generator
from dgseg.data.streets.dataset import Streets
from dgseg.data.streets.domains import DOMAINS, SOURCES

AUGMENTED = "augmented"
# shift: what the augmented picture has beside the original one
SHIFTS = {
    "coherent": "another look, other paints, and an unknown object, drawn as one scene (CG-Aug)",
    "both": "the same, but the object comes from a picture of the original look, and shows it",
    "either": "half of the scenes an unknown object, half another look and other paints",
    "semantic": "an unknown object",
    "covariate": "another look and other paints",
}
_PURPOSE = 0x70616972  # of the random numbers, apart from those of samplers and augmentation


class StreetsPairs(Streets):
    """Samples with a view "augmented": the same scene and labels, shifted.

    Args:
        domain: game or generated.
        split: train, val or test.
        shift: coherent, both, either, semantic or covariate: see SHIFTS.
        objects: at most so many unknown objects in a scene.
        masks: folder of PNGs with the objects' outlines; None: drawn ones.
        misalignment: pixels by which the augmented picture strays from its labels; the original does not.
        options: size, seed, length as Streets has them.
    """

    name = "streets_pairs"

    def __init__(
        self,
        domain: str = "game",
        split: str = "train",
        *,
        shift: str = "coherent",
        objects: int = 1,
        masks: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(domain, split, **options)
        if domain not in SOURCES:
            raise DataError(f"pairs are made to train on: of {' or '.join(SOURCES)}, not of {domain}")
        if shift not in SHIFTS:
            raise DataError(f"streets_pairs has no shift {shift!r}; it has {', '.join(SHIFTS)}")
        if self.unknown or self.depth:
            raise DataError(
                "streets_pairs puts unknown objects into the augmented view and has no depth: leave both out"
            )
        self.shift = shift
        self.paste = CutPaste(objects=objects, masks=masks)

    def id(self, index: int) -> str:
        return super().id(index).replace("streets/", "streets_pairs/", 1)

    def __getitem__(self, index: int) -> Sample:
        label, image = self.draw(index)
        shifted = self.augmented(index, label)
        return Sample(torch.from_numpy(image), torch.from_numpy(label), self.id(index), views={AUGMENTED: shifted})

    def augmented(self, index: int, label: Map) -> Sample:
        rng = generator(self.seed, self.scenes[index], _PURPOSE)
        seed, coin = int(rng.integers(1 << 63)), rng.random() < 0.5
        shift = ("semantic", "covariate")[coin] if self.shift == "either" else self.shift
        objects = None if shift == "covariate" else self.paste(label, rng)
        labels, image = self.redraw(index, seed, shift, objects)
        return Sample(torch.from_numpy(image), torch.from_numpy(labels), f"{self.id(index)}+{shift}")

    def redraw(self, index: int, seed: int, shift: str, objects: Map | None) -> tuple[Map, npt.NDArray[np.uint8]]:
        """Labels and image of a scene with these objects; `seed` is what looks, paints and patterns are drawn with."""
        if shift == "both" and objects is not None:
            labels, image = self.draw(index, seed, objects=objects)
            _, other = self.draw(index, seed, shifted=True)
            return labels, np.where(objects > 0, image, other)
        return self.draw(index, seed, shifted=shift != "semantic", objects=objects)

    def draw(
        self, index: int, seed: int | None = None, *, shifted: bool = False, objects: Map | None = None
    ) -> tuple[Map, npt.NDArray[np.uint8]]:
        """Labels and image of a scene: as it is, or under the look and with the paints of `seed`."""
        label, image, _ = _host.render_street(
            DOMAINS.index(self.domain),
            self.seed,
            self.scenes[index],
            *self.size,
            misalignment=0.0 if seed is None else self.misalignment,
            shift=seed or 0,
            look=shifted,
            paints=shifted,
            pasted=objects,
        )
        assert image is not None
        return label, image
