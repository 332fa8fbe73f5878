"""Cut-and-paste on label maps: the outline of an object that no class names, put on the road. What it looks like is up
to whoever draws the image.

Outlines are drawn here (polygons, arches, crosses, rings, stairs: none that the streets world's unknown objects have),
or come from a folder of masks, such as those of another data set's objects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dgseg.data.dataset import DataError
from dgseg.data.labels import OUT_OF_DISTRIBUTION

Map = npt.NDArray[np.uint8]  # [H, W]
Outline = npt.NDArray[np.bool_]  # [h, w]

ROAD = 0
SHAPES = ("polygon", "arch", "cross", "ring", "stairs")


@dataclass(frozen=True)
class CutPaste:
    long_side: tuple[int, int] = (200, 500)
    """of an object, least and most, in pixels of an image that is 1024 high"""
    objects: int = 1
    """at most so many per image, at least one"""
    masks: str | None = None
    """folder of PNGs whose pixels other than 0 are an object; None: outlines drawn here"""

    def __post_init__(self) -> None:
        if not 1 <= self.long_side[0] <= self.long_side[1]:
            raise ValueError(f"long_side is (least, most) in pixels, at least 1; it is {self.long_side}")
        if not 1 <= self.objects <= 255:
            raise ValueError(f"an image takes 1 to 255 objects, not {self.objects}")
        if self.masks is not None:
            self._masks(self.masks)  # says at once that there are none

    def __call__(self, label: Map, rng: np.random.Generator) -> Map:
        """0, or the number of the object that stands there. Without any road nothing is pasted."""
        found = np.zeros_like(label)
        feet = np.argwhere(label == ROAD)
        if not len(feet):
            return found
        for number in range(1, int(rng.integers(1, self.objects, endpoint=True)) + 1):
            side = max(2, round(rng.uniform(*self.long_side) * label.shape[0] / 1024))
            outline = self._outline(min(side, label.shape[1]), rng)
            foot, centre = feet[rng.integers(len(feet))]
            _stamp(found, outline, int(foot), int(centre), number)
        return found

    def _outline(self, side: int, rng: np.random.Generator) -> Outline:
        if self.masks is None:
            return drawn(side, rng)
        paths = self._masks(self.masks)
        return loaded(paths[int(rng.integers(len(paths)))], side)

    @staticmethod
    def _masks(folder: str) -> list[Path]:
        paths = sorted(Path(folder).expanduser().glob("*.png"))
        if not paths:
            raise DataError(f"{folder} holds no *.png: masks of objects, 0 where there is none")
        return paths


def pasted(label: Map, objects: Map) -> Map:
    return np.where(objects > 0, np.uint8(OUT_OF_DISTRIBUTION), label)


def _stamp(onto: Map, outline: Outline, foot: int, centre: int, number: int) -> None:
    """The outline's lowest row on row `foot`, its middle on column `centre` or as near as the image's sides allow; what
    rises above the image is cut off."""
    height, width = outline.shape
    left = min(max(0, centre - width // 2), onto.shape[1] - width)
    part = outline[max(0, height - foot - 1) :]
    onto[foot + 1 - len(part) : foot + 1, left : left + width][part] = number


def drawn(side: int, rng: np.random.Generator) -> Outline:
    """An upright outline whose longer side is `side`."""
    aspect = rng.uniform(0.5, 1.0)
    short = max(2, round(side * aspect))
    height, width = (side, short) if rng.random() < 0.5 else (short, side)
    # Of pixels' centres: x to the right and y upwards, both from -1 to 1.
    y, x = 1 - (2 * np.arange(height)[:, None] + 1) / height, (2 * np.arange(width)[None] + 1) / width - 1
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    a, b = rng.uniform(0.25, 0.5, 2)
    if shape == "polygon":
        corners = int(rng.integers(4, 9))
        angles = (np.arange(corners) + rng.uniform(0, 0.8, corners)) * (2 * np.pi / corners)
        radii = rng.uniform(0.55, 1.0, corners)
        inside = np.hypot(x, y) < np.interp(np.arctan2(y, x) % (2 * np.pi), angles, radii, period=2 * np.pi)
    elif shape == "arch":
        inside = (np.abs(x) > 1 - a) | (y > 1 - 2 * b)
    elif shape == "cross":
        inside = (np.abs(x) < a) | (np.abs(y - a / 2) < b / 2)
    elif shape == "ring":
        inside = (np.hypot(x, y) < 1) & (np.hypot(x, y) > a)
    else:
        steps = int(rng.integers(2, 5))
        inside = (y + 1) / 2 < np.ceil((x + 1) / 2 * steps) / steps
    if not inside.any():
        inside = ~inside  # so few pixels that they miss it: its box
    return _trimmed(inside[:, ::-1] if rng.random() < 0.5 else inside)


def loaded(path: Path, side: int) -> Outline:
    from PIL import Image

    with Image.open(path) as image:
        outline = np.asarray(image.convert("L")) > 0
    if not outline.any():
        raise DataError(f"{path} holds no object: every pixel is 0")
    outline = _trimmed(outline)
    scale = side / max(outline.shape)
    rows, columns = (np.arange(max(1, round(n * scale))) * n // max(1, round(n * scale)) for n in outline.shape)
    return outline[np.ix_(rows, columns)]


def _trimmed(outline: Outline) -> Outline:
    rows, columns = np.flatnonzero(outline.any(1)), np.flatnonzero(outline.any(0))
    return outline[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
