"""Splits as their authors publish them: lists of file names, and MATLAB's split.mat."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dgseg.data.dataset import DataError

_COMPRESSED, _MATRIX, _INT8 = 15, 14, 1
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def text_split(path: Path) -> frozenset[str]:
    """One file name a line, with or without a folder and a suffix."""
    stems = frozenset(
        Path(line.split()[0]).stem for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    )
    if not stems:
        raise DataError(f"{path}: the list is empty; download it again")
    return stems


def matlab_split(path: Path, variable: str) -> list[int]:
    """The integers of one numeric variable of a MATLAB 5 file; scipy would be a large dependency for one small file."""
    try:
        data = path.read_bytes()
        order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
        if order is None:
            raise ValueError("no MATLAB 5 file")
        for kind, body in _elements(data[128:], order):
            if kind == _COMPRESSED:
                kind, body = next(_elements(zlib.decompress(body), order))
            if kind == _MATRIX:
                _, (_, dimensions), (_, label), *values = _elements(body, order)
                if label.rstrip(b"\0").decode() == variable:
                    numbers = np.frombuffer(values[0][1], order + _NUMBERS[values[0][0]])
                    assert numbers.size == np.prod(np.frombuffer(dimensions, order + "i4"))
                    return [int(number) for number in numbers]
    except (OSError, ValueError, KeyError, struct.error, zlib.error, StopIteration, AssertionError) as error:
        raise DataError(
            f"{path}: cannot be read ({error or type(error).__name__}); lists in text serve as well"
        ) from error
    raise DataError(f"{path}: holds no {variable}; download it again")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each data element; small ones share their tag's eight bytes."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            yield kind, data[at + 4 : at + 4 + size]
            at += 8
        else:
            yield kind, data[at + 8 : at + 8 + size]
            # Everything is padded to eight bytes, compressed elements excepted.
            at += 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
