"""One shard: written aside and renamed when whole; read back when the manifest is made."""

import io
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dgseg.data.augment.geometry import Resize
from dgseg.data.dataset import DataError
from dgseg.data.labels import OUT_OF_DISTRIBUTION
from dgseg.data.pack.codec import Tiles, encode_image, encode_map
from dgseg.data.pack.layout import INDEX, MAGIC, PART, TRAILER
from dgseg.data.sample import Draw, Sample


@dataclass(frozen=True)
class Settings:
    """How a pack is encoded."""

    size: tuple[int, int] | None = None  # None: as they come
    keep_ratio: bool = False  # the largest size of the image's own shape that fits into `size`
    quality: int | None = 95  # JPEG, 4:4:4; None: lossless WebP
    tile: tuple[int, int] = (144, 256)
    samples_per_shard: int = 128

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size is (height, width), each at least 1; it is {self.size}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality goes from 1 to 100, or None for lossless; it is {self.quality}")
        if min(*self.tile, self.samples_per_shard) < 1:
            raise ValueError("tile and samples_per_shard must be at least 1")


@dataclass(frozen=True)
class Footer:
    index: npt.NDArray[Any]  # INDEX rows; shard and id_offset are those within this shard: 0 and up
    class_pixels: npt.NDArray[np.int64]
    ids: bytes
    shard_bytes: int
    shard_crc: int


class ShardWriter:
    def __init__(self, path: Path, settings: Settings, num_classes: int, maps: dict[str, str]) -> None:
        self.path, self.settings, self.num_classes, self.maps = path, settings, num_classes, maps
        self._resize = Resize(settings.size, keep_ratio=settings.keep_ratio)
        self._aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file = self._aside.open("wb")
        self._offset = self._crc = 0
        self._rows: list[Any] = []
        self._class_pixels: list[npt.NDArray[np.int64]] = []
        self._ids = b""
        self._write(MAGIC)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._offset += len(content)
        self._crc = zlib.crc32(content, self._crc)

    def add(self, source: Sample) -> None:
        if source.views:
            raise DataError(
                f"{source.id} comes with another picture of the same place ({', '.join(source.views)}), and a pack "
                "holds one a sample: train on the set as it is"
            )
        found = kinds(source)
        if found != self.maps:
            raise DataError(f"{source.id} has the maps {found}, the first sample of its dataset {self.maps}")
        sample = self._resize(source, np.random.default_rng(0), Draw(0, 0, 0)).whole()
        tiles = Tiles(sample.size, self.settings.tile)
        maps = ([] if sample.label is None else [sample.label]) + [sample.extra[name] for name in sorted(sample.extra)]
        head = [encode_map(each) for each in maps]
        parts = head + encode_image(sample.image, tiles, self.settings.quality)
        table = np.array([(len(part), zlib.crc32(part)) for part in parts], PART).tobytes()
        record = table + b"".join(parts)
        name = sample.id.encode()
        self._rows.append(
            (
                0,
                self._offset,
                len(record),
                len(table) + sum(map(len, head)),
                zlib.crc32(table),
                sample.size,
                source.size,
                len(self._ids),
                len(name),
            )
        )
        self._ids += name + b"\n"
        self._class_pixels.append(class_pixels(sample, self.num_classes))
        self._write(record)

    def finish(self) -> None:
        out = io.BytesIO()
        ids = np.frombuffer(self._ids, np.uint8)
        np.savez(out, index=np.array(self._rows, INDEX), class_pixels=np.stack(self._class_pixels), ids=ids)
        footer = out.getvalue()
        trailer = np.array((len(footer), zlib.crc32(footer), self._crc, MAGIC), TRAILER).tobytes()
        self._file.write(footer + trailer)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._aside.replace(self.path)

    def discard(self) -> None:
        self._aside.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk fails again, on what is still in the buffer
            self._file.close()


def kinds(sample: Sample) -> dict[str, str]:
    """Name and numpy dtype of every map, the label's under the empty name."""
    named = {"": sample.label} | sample.extra
    return {name: each.numpy().dtype.str for name, each in sorted(named.items()) if each is not None}


def class_pixels(sample: Sample, num_classes: int) -> npt.NDArray[np.int64]:
    if sample.label is None:
        return np.zeros(num_classes, np.int64)
    counts = torch.bincount(sample.label.flatten(), minlength=256).numpy()
    strangers = [int(value) for value in counts[:OUT_OF_DISTRIBUTION].nonzero()[0] if value >= num_classes]
    if strangers:
        raise DataError(
            f"{sample.id}: the label holds {strangers}; valid are 0 to {num_classes - 1}, 254 (out of distribution) "
            "and 255 (void). Map raw ids to train ids in the dataset"
        )
    return counts[:num_classes]


def read_footer(path: Path) -> Footer:
    """Of a finished shard: the renaming says that it was written whole, the CRC that it still is."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TRAILER.itemsize))
        raw = file.read()
        trailer = np.frombuffer(raw, TRAILER)[0] if len(raw) == TRAILER.itemsize else None
        if trailer is not None and trailer["magic"] == MAGIC.rstrip(b"\0"):
            begin = size - TRAILER.itemsize - int(trailer["footer_bytes"])
            if begin >= len(MAGIC):
                file.seek(begin)
                content = file.read(int(trailer["footer_bytes"]))
                if zlib.crc32(content) == trailer["footer_crc"]:
                    found = np.load(io.BytesIO(content), allow_pickle=False)
                    crc = zlib.crc32(content + raw, int(trailer["records_crc"]))
                    return Footer(found["index"], found["class_pixels"], found["ids"].tobytes(), size, crc)
    raise DataError(f"{path} is damaged. Delete this file and run the same `dgseg data pack` again")
