"""Samples as pictures that people look at: label colours, bands, borders, depth, contact sheets with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dgseg.data.labels import CLASSES, COLOURS, OUT_OF_DISTRIBUTION, VOID, coloured

if TYPE_CHECKING:  # Pillow loads when a sheet is made
    from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]  # [H, W, 3]

_MARGIN = 6
_CAPTION = 18
_BANDS = np.array([(0, 0, 0), (255, 80, 40), (255, 200, 60), (70, 150, 255), (150, 90, 220)], np.uint8)


@dataclass(frozen=True)
class Panel:
    caption: str
    pixels: Pixels


def borders(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class."""
    edge = np.zeros(label.shape, bool)
    edge[:, :-1] |= label[:, :-1] != label[:, 1:]
    edge[:-1] |= label[:-1] != label[1:]
    return edge


def bordered(image: Pixels, label: npt.NDArray[np.uint8]) -> Pixels:
    """The label's borders over the image: where they miss what they belong to, image and label are misaligned."""
    picture = image.copy()
    picture[borders(label)] = (255, 0, 255)
    return picture


def banded(bands: npt.NDArray[np.uint8]) -> Pixels:
    """What dgseg.ops.boundary_bands gives, the thinnest band brightest."""
    return _BANDS[np.minimum(bands, len(_BANDS) - 1)]


def deep(depth: npt.NDArray[np.float32]) -> Pixels:
    """Metres as brightness on a logarithmic scale: 3 m white, 150 m dark, nothing (0) black."""
    known = np.where(depth > 0, np.clip(depth, 3, 150), 150)
    grey = 255 - 225 * np.log(known / 3) / np.log(50)
    grey[depth <= 0] = 0
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def contact_sheet(rows: Sequence[Sequence[Panel]], path: Path, title: str = "", widest: int = 512) -> None:
    """Writes a PNG: one row per sample, its panels with their captions, the classes' colours below. Panels that are
    wider than `widest` are shrunk."""
    from PIL import Image, ImageDraw, ImageFont

    if not rows or not all(rows):
        raise ValueError("a contact sheet needs at least one row with at least one panel")
    cells = [[_fitted(panel.pixels, widest) for panel in row] for row in rows]
    columns = max(len(row) for row in cells)
    widths = [max(row[c].width for row in cells if c < len(row)) for c in range(columns)]
    heights = [max(cell.height for cell in row) for row in cells]
    labels = [*CLASSES, "unknown (254)", "void (255)"]
    colours = coloured(np.array([[*range(len(COLOURS)), OUT_OF_DISTRIBUTION, VOID]], np.uint8))[0]
    width = max(sum(widths) + _MARGIN * (columns + 1), 420)
    per_line = max(1, (width - _MARGIN) // 130)
    legend = -(-len(labels) // per_line) * _CAPTION + _MARGIN
    height = _MARGIN + (_CAPTION + _MARGIN if title else 0) + sum(h + _CAPTION + _MARGIN for h in heights) + legend
    sheet = Image.new("RGB", (width, height), (24, 24, 28))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    y = _MARGIN
    if title:
        draw.text((_MARGIN, y), title, (255, 255, 255), ImageFont.load_default(size=14))
        y += _CAPTION + _MARGIN
    for row, pictures, tall in zip(rows, cells, heights, strict=True):
        x = _MARGIN
        for panel, picture, wide in zip(row, pictures, widths, strict=False):
            draw.text((x, y), _clipped(panel.caption, wide, draw, font), (200, 200, 205), font)
            sheet.paste(picture, (x, y + _CAPTION))
            x += wide + _MARGIN
        y += tall + _CAPTION + _MARGIN
    for i, (label, colour) in enumerate(zip(labels, colours, strict=True)):
        x, top = _MARGIN + i % per_line * 130, y + i // per_line * _CAPTION
        draw.rectangle((x, top + 1, x + 14, top + 13), tuple(int(v) for v in colour), (120, 120, 120))
        draw.text((x + 20, top), label, (230, 230, 230), font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def _fitted(pixels: Pixels, widest: int) -> Image.Image:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width <= widest:
        return image
    return image.resize((widest, max(1, round(image.height * widest / image.width))), Image.Resampling.BILINEAR)


def _clipped(
    text: str, wide: int, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> str:
    while len(text) > 4 and draw.textlength(text, font) > wide:
        text = text[:-4] + "..."
    return text
