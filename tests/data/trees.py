"""Miniature copies of the providers' folders, in their codecs."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import scipy.io
from PIL import Image

HEIGHT, WIDTH = 12, 18


def image(path: Path, seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> npt.NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return pixels


def ids(raw: list[int], size: tuple[int, int] = (HEIGHT, WIDTH)) -> npt.NDArray[np.uint8]:
    """Every raw id occurs, in stripes."""
    return np.resize(np.array(raw, np.uint8), size[0] * size[1]).reshape(size)


def grey(path: Path, label: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(label).save(path)


def palette(path: Path, label: npt.NDArray[np.uint8]) -> None:
    """Indices under colours that are not they: GTA5's and Mapillary's label maps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label, "P")
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    picture.save(path)


def deep_colour(path: Path, label: npt.NDArray[np.uint8]) -> None:
    """16 bits, class in the first channel, instance in the second: SYNTHIA's label maps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*label.shape, 3), np.uint16)
    pixels[..., 2] = label  # OpenCV writes blue, green, red
    pixels[..., 1] = np.arange(label.size).reshape(label.shape) * 37
    assert cv2.imwrite(str(path), pixels)


def gta5(root: Path, count: int = 6, raw: tuple[int, ...] = (*range(35),)) -> None:
    for number in range(1, count + 1):
        image(root / f"images/{number:05d}.png", number)
        palette(root / f"labels/{number:05d}.png", ids(list(raw)))


def gta5_split(root: Path, train: list[int], val: list[int], test: list[int], *, compressed: bool = True) -> None:
    columns = {"trainIds": train, "valIds": val, "testIds": test}
    (root / "read_mapping").mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(
        root / "read_mapping/split.mat",
        {name: np.array(numbers, float)[:, None] for name, numbers in columns.items()},
        do_compression=compressed,
    )


def cityscapes(
    root: Path, split: str = "val", cities: tuple[str, ...] = ("frankfurt", "lindau"), each: int = 2
) -> None:
    for city in cities:
        for number in range(each):
            stem = f"{split}/{city}/{city}_{number:06d}_000019"
            image(root / f"leftImg8bit/{stem}_leftImg8bit.png", hash_of(stem))
            grey(root / f"gtFine/{stem}_gtFine_labelIds.png", ids([*range(34), 255]))
            palette(root / f"gtFine/{stem}_gtFine_color.png", ids([1, 2, 3]))
            (root / f"gtFine/{stem}_gtFine_polygons.json").write_text("{}")


def hash_of(text: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(text)) % 2**31
