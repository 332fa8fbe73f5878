"""Which raw ids a provider's label maps may hold and what they become. An id that nobody named is an error: label maps
of one numbering read as another train without complaint, and badly."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dgseg.data.dataset import DataError
from dgseg.data.decoding import read_colours, read_ids
from dgseg.data.labels import CITYSCAPES_IDS, CLASSES, NUM_CLASSES, OUT_OF_DISTRIBUTION, VOID

_UNKNOWN = 253
_REMEDY = "map raw ids with a classes file (docs/tutorials/own-data.md)"


@dataclass(frozen=True, eq=False)
class Ids:
    """raw[i] becomes train[i], and out[i] in the out-of-distribution map: 0 inside, 1 outside, 255 void."""

    raw: npt.NDArray[np.uint32]  # sorted: ids, or colours as 0xRRGGBB
    train: npt.NDArray[np.uint8]
    colours: bool = False
    rest: int | None = None  # what every other id becomes; None: an error
    out: npt.NDArray[np.uint8] | None = None
    remedy: str = _REMEDY

    @classmethod
    def of(
        cls, train: Mapping[int, int], *, out: Mapping[int, int] | None = None, remedy: str = _REMEDY, **more: Any
    ) -> "Ids":
        raw = sorted(train)
        inside = None if out is None else np.array([out.get(i, 0) for i in raw], np.uint8)
        return cls(
            np.array(raw, np.uint32), np.array([train[i] for i in raw], np.uint8), out=inside, remedy=remedy, **more
        )

    def read(self, path: Path, *, oriented: bool = False) -> npt.NDArray[np.uint32 | np.uint16 | np.uint8]:
        return read_colours(path, oriented=oriented) if self.colours else read_ids(path, oriented=oriented)

    def convert(self, raw: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.uint8]:
        """Train ids; a ValueError names the first raw ids that are unknown."""
        if self.colours:
            place = np.searchsorted(self.raw, raw).clip(max=len(self.raw) - 1)
            known = self.raw[place] == raw
            label = np.where(known, self.train[place], np.uint8(_UNKNOWN if self.rest is None else self.rest))
        else:
            label = self._table(self.train, _UNKNOWN if self.rest is None else self.rest, raw.dtype)[raw]
        if self.rest is None and (label == _UNKNOWN).any():
            strangers = np.unique(raw[label == _UNKNOWN])
            raise ValueError(f"labels hold {self._text(strangers[:5])}; valid: {self._text(self.raw)}; {self.remedy}")
        return label

    def outside(self, raw: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.uint8] | None:
        return None if self.out is None else self._table(self.out, VOID, raw.dtype)[raw]

    def _table(self, values: npt.NDArray[np.uint8], rest: int, dtype: np.dtype[Any]) -> npt.NDArray[np.uint8]:
        table = np.full(np.iinfo(dtype).max + 1, rest, np.uint8)
        table[self.raw] = values
        return table

    def _text(self, raw: npt.NDArray[np.uint32]) -> str:
        if self.colours:
            return ", ".join(f"#{int(colour):06x}" for colour in raw)
        runs = np.split(raw, np.flatnonzero(np.diff(raw.astype(np.int64)) != 1) + 1)
        return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


_TRAIN = {i: i for i in (*range(NUM_CLASSES), OUT_OF_DISTRIBUTION, VOID)}
TRAIN_IDS = Ids.of(_TRAIN)

# Cityscapes' own ids; GTA5 uses them too. The licence plate is -1, stored as 34 or 255.
_CITYSCAPES = {**dict.fromkeys((*range(35), 255), VOID), **{raw: i for i, raw in enumerate(CITYSCAPES_IDS)}}
CITYSCAPES_LABEL_IDS = Ids.of(_CITYSCAPES)


def train_ids(*, void: int = VOID) -> Ids:
    """Train ids as they are; `void` is one more id that means nothing."""
    return TRAIN_IDS if void == VOID else Ids.of({**_TRAIN, void: VOID})


def read_classes(path: Path | str) -> Ids:
    """A classes file: JSON, raw id or colour -> train id or class name.

    {"0": "road", "7": "car", "12": "void"} or {"#804080": "road", "0,0,142": 13}; "*" names what all others become.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError('expected {"raw id or colour": "class", …}')
        rest = _class(entries.pop("*")) if "*" in entries else None
        if not entries:
            raise ValueError("it maps nothing")
        coloured = {"#" in key or "," in key for key in entries}
        if len(coloured) > 1:
            raise ValueError("it mixes ids and colours")
        mapping = {_raw(key): _class(value) for key, value in entries.items()}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: {reason}; docs/tutorials/own-data.md shows a classes file") from error
    return Ids.of(mapping, colours=coloured.pop(), rest=rest, remedy=f"name them in {path}")


def _raw(key: str) -> int:
    if key.startswith("#") and len(key) == 7:
        return int(key[1:], 16)
    if "," in key:
        red, green, blue = (int(part) for part in key.split(","))
        if not all(0 <= part <= 255 for part in (red, green, blue)):
            raise ValueError(f"{key} is no colour")
        return red << 16 | green << 8 | blue
    if not 0 <= int(key) <= 0xFF:
        raise ValueError(f"{key} is no id that an 8-bit label map can hold")
    return int(key)


def _class(value: object) -> int:
    names = {**{name: i for i, name in enumerate(CLASSES)}, "void": VOID, "out-of-distribution": OUT_OF_DISTRIBUTION}
    if isinstance(value, str) and value in names:
        return names[value]
    if isinstance(value, int) and value in _TRAIN:
        return value
    raise ValueError(f"{value!r} is no class; classes: {', '.join(names)}, or a train id 0–18")
