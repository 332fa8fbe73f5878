"""Panels for eyes: image, truth, prediction, error and entropy side by side, with a legend in Cityscapes colours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dgseg.data.labels import CLASSES, COLOURS, OUT_OF_DISTRIBUTION, VOID, coloured

Bytes = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)
WRONG = (230, 30, 30)
_GAP = 6
_TEXT = 15

# Dark blue over magenta to yellow, as matplotlib's "plasma" runs: stops of a straight interpolation.
_HEAT = np.array(
    [
        (13, 8, 135), (84, 2, 163), (139, 10, 165), (185, 50, 137),
        (219, 92, 104), (244, 136, 73), (254, 188, 43), (240, 249, 33),
    ],
    np.float64,
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    image: Bytes  # [H, W, 3]
    truth: Bytes  # [H, W] train ids
    predictions: dict[str, Bytes]  # column title -> [H, W] train ids: {"prediction": …}, or one per model
    entropy: npt.NDArray[np.float32] | None = None  # [H, W], 0 to 1
    caption: str = ""


def overlay(image: Bytes, labels: Bytes, strength: float = 0.55) -> Bytes:
    """The image tinted with its labels' colours; void stays as it is."""
    mixed = (image * (1 - strength) + coloured(labels) * strength).round().astype(np.uint8)
    mixed[labels == VOID] = image[labels == VOID]
    return mixed


def error_map(image: Bytes, truth: Bytes, prediction: Bytes) -> Bytes:
    """Wrong pixels red, right ones the image in pale grey, those without a label black."""
    grey: Bytes = (128 + image.mean(-1, keepdims=True) / 2).round().astype(np.uint8).repeat(3, -1)
    labelled = truth < OUT_OF_DISTRIBUTION
    grey[labelled & (prediction != truth)] = WRONG
    grey[~labelled] = BLACK
    return grey


def heat(values: npt.NDArray[np.floating]) -> Bytes:
    """[H, W] in 0 to 1 -> colours, dark blue to yellow."""
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(np.intp), len(_HEAT) - 2)
    share = (place - low)[..., None]
    colours: Bytes = (_HEAT[low] * (1 - share) + _HEAT[low + 1] * share).round().astype(np.uint8)
    return colours


def panel(examples: Sequence[Example], *, width: int = 320, classes: Sequence[str] = CLASSES) -> Image.Image:
    """One row per example, one column per view; every view is `width` pixels wide."""
    if not examples:
        raise ValueError("there is no example to show")
    rows = [views(example) for example in examples]
    titles = list(rows[0])
    if any(list(row) != titles for row in rows):
        raise ValueError("examples of one panel must have the same predictions, and all an entropy map or none")
    heights = [round(width * example.image.shape[0] / example.image.shape[1]) for example in examples]
    caption = 20 if any(example.caption for example in examples) else 0
    header = 24
    legend = _legend(len(titles) * (width + _GAP) - _GAP, legend_entries(examples, classes))
    tall = header + sum(height + caption + _GAP for height in heights) + legend.height
    sheet = Image.new("RGB", (legend.width + 2 * _GAP, tall + _GAP), WHITE)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)
    for column, title in enumerate(titles):
        middle = _GAP + column * (width + _GAP) + width / 2
        draw.text((middle, header / 2), title, BLACK, font, anchor="mm")
    top = header
    for example, row, height in zip(examples, rows, heights, strict=True):
        for column, (view, smooth) in enumerate(row.values()):
            shown = Image.fromarray(view).resize(
                (width, height), Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
            )
            sheet.paste(shown, (_GAP + column * (width + _GAP), top))
        if caption:
            draw.text((_GAP, top + height + caption / 2), example.caption, GREY, font, anchor="lm")
        top += height + caption + _GAP
    sheet.paste(legend, (_GAP, top))
    return sheet


def class_legend(width: int = 640, classes: Sequence[str] = CLASSES) -> Image.Image:
    """What the colours of an overlay mean."""
    return _legend(width, _class_entries(classes))


def legend_entries(examples: Sequence[Example], classes: Sequence[str] = CLASSES) -> list[tuple[str, Colour]]:
    """What the colours of these examples' views mean."""
    entries = _class_entries(classes)
    if any((example.truth == OUT_OF_DISTRIBUTION).any() for example in examples):
        entries.append(("unknown", _plain(coloured(np.array(OUT_OF_DISTRIBUTION, np.uint8)))))
    entries += [("void", BLACK), ("error", WRONG)]
    if any(example.entropy is not None for example in examples):
        entries += [("certain", _plain(heat(np.zeros(1))[0])), ("uncertain", _plain(heat(np.ones(1))[0]))]
    return entries


def _class_entries(classes: Sequence[str]) -> list[tuple[str, Colour]]:
    return [(name, _plain(COLOURS[place])) for place, name in enumerate(classes)]


def views(example: Example) -> dict[str, tuple[Bytes, bool]]:
    """title -> (picture, whether it may be smoothed): labels may not."""
    shown = {"image": (example.image, True), "truth": (coloured(example.truth), False)}
    single = len(example.predictions) == 1
    shown |= {name: (coloured(prediction), False) for name, prediction in example.predictions.items()}
    for name, prediction in example.predictions.items():
        title = "error" if single else f"{name}: error"
        shown[title] = (error_map(example.image, example.truth, prediction), False)
    if example.entropy is not None:
        shown["entropy"] = (heat(example.entropy), True)
    return shown


def _plain(colour: Bytes) -> Colour:
    red, green, blue = colour.tolist()
    return red, green, blue


def _legend(width: int, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """A swatch and a name per entry, in as many lines as they need."""
    font = ImageFont.load_default(_TEXT)
    swatch, line = 16, 24
    places, x, y = [], 0, 4
    for name, _ in entries:
        needed = swatch + 5 + round(font.getlength(name)) + 14
        if x and x + needed > width:
            x, y = 0, y + line
        places.append((x, y))
        x += needed
    legend = Image.new("RGB", (width, y + line), WHITE)
    draw = ImageDraw.Draw(legend)
    for (name, colour), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y, x + swatch, y + swatch), fill=colour, outline=GREY)
        draw.text((x + swatch + 5, y + swatch / 2), name, BLACK, font, anchor="lm")
    return legend
