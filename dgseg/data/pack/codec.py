"""Pixels to bytes and back. Images are cut into tiles, each compressed alone, so that a crop decodes only the tiles
it touches and gets the very pixels of the full decode. Maps (labels and others) are lossless and decoded whole."""

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgseg.data.decoding import unpack
from dgseg.data.sample import Box

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tiles:
    """Where the tiles of an image lie: row by row, smaller ones at the right and lower edge."""

    size: tuple[int, int]
    tile: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        return -(-self.size[0] // self.tile[0]), -(-self.size[1] // self.tile[1])

    def __len__(self) -> int:
        return self.grid[0] * self.grid[1]

    def box(self, row: int, column: int) -> Box:
        top, left = row * self.tile[0], column * self.tile[1]
        return Box(top, left, min(self.tile[0], self.size[0] - top), min(self.tile[1], self.size[1] - left))

    def rows(self, box: Box) -> Iterator[tuple[int, range]]:
        """For each row of tiles that the box touches, the columns of those tiles."""
        columns = range(box.left // self.tile[1], (box.left + box.width - 1) // self.tile[1] + 1)
        for row in range(box.top // self.tile[0], (box.top + box.height - 1) // self.tile[0] + 1):
            yield row, columns


def encode_image(image: Tensor, tiles: Tiles, quality: int | None) -> list[bytes]:
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    boxes = (tiles.box(row, column) for row in range(tiles.grid[0]) for column in range(tiles.grid[1]))
    return [_encode_tile(pixels[b.top : b.top + b.height, b.left : b.left + b.width], quality) for b in boxes]


def _encode_tile(pixels: Bytes, quality: int | None) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    tile = Image.fromarray(np.ascontiguousarray(pixels))
    if quality is None:
        tile.save(out, "WEBP", lossless=True, quality=50, method=3)
    else:
        # Full chroma: lights and signs are a few pixels of colour.
        tile.save(out, "JPEG", quality=quality, subsampling="4:4:4", optimize=True)
    return out.getvalue()


def _decode_tile(encoded: bytes) -> Bytes:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(encoded), formats=("JPEG", "WEBP")))


def decode_image(box: Box, tiles: Tiles, read: Callable[[int, range], list[bytes]]) -> Tensor:
    """The box's pixels, uint8 [3, H, W]. `read` fetches tiles of one row."""
    canvas = np.empty((box.height, box.width, 3), np.uint8)
    for row, columns in tiles.rows(box):
        for column, encoded in zip(columns, read(row, columns), strict=True):
            at = tiles.box(row, column)
            pixels = _decode_tile(encoded)
            if pixels.shape != (at.height, at.width, 3):
                raise ValueError(f"tile {row},{column} decodes to {pixels.shape}, not {at.height}x{at.width} RGB")
            top, left = max(box.top, at.top), max(box.left, at.left)
            bottom = min(box.top + box.height, at.top + at.height)
            right = min(box.left + box.width, at.left + at.width)
            canvas[top - box.top : bottom - box.top, left - box.left : right - box.left] = pixels[
                top - at.top : bottom - at.top, left - at.left : right - at.left
            ]
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()


def encode_map(each: Tensor) -> bytes:
    return zlib.compress(each.contiguous().numpy().tobytes(), 9)


def decode_map(encoded: bytes, size: tuple[int, int], dtype: np.dtype[np.generic]) -> Tensor:
    wanted = size[0] * size[1] * dtype.itemsize
    # A bytearray, because torch wants memory that may be written.
    return torch.from_numpy(np.frombuffer(unpack(encoded, wanted), dtype).reshape(size))
