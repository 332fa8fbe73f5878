"""Reads a pack: any sample at random, or a part of one, without holding more than that in memory."""

import os
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dgseg.data.dataset import CorruptFile, DataError, Dataset
from dgseg.data.datasets import DATASETS, dataset_class
from dgseg.data.names import check_inside
from dgseg.data.pack.codec import Tiles, decode_image, decode_map
from dgseg.data.pack.layout import FORMAT, INDEX, MANIFEST, PART, PLAN, read_json, sealed, shard_name
from dgseg.data.sample import Box, LazySample, Sample

SMALL_FILES = ("index.npy", "class_pixels.npy", "ids.txt")  # checked when a pack is opened


class Packed(Dataset):
    """What `dgseg data pack` wrote, under the names, domain and ids of its source.

    Files are read with pread, which knows no common position: processes that fork may share them. Pickles hold the
    folder's name alone.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        manifest = _manifest(self.root)
        source, settings = manifest["source"], manifest["settings"]
        self.manifest = manifest
        self.name, self.domain, self.num_classes = source["name"], source["domain"], source["num_classes"]
        if self.name in DATASETS:
            kind = dataset_class(self.name)
            self.unknown, self.conditions = kind.unknown, kind.conditions
            self.component_sizes, self.component_pixels = kind.component_sizes, kind.component_pixels
        self._tile = tuple(settings["tile"])
        self._maps = {name: np.dtype(kind) for name, kind in source["maps"].items()}
        # Mapped, not read: what loader processes share stays one copy.
        for name in SMALL_FILES:
            _check_file(self.root / name, manifest["files"][name])
        self._index = np.load(self.root / "index.npy", mmap_mode="r")
        self._class_pixels = np.load(self.root / "class_pixels.npy", mmap_mode="r")
        self._ids = np.memmap(self.root / "ids.txt", np.uint8, "r")
        if self._index.dtype != INDEX or len(self._index) != source["samples"]:
            raise CorruptFile(self.root / "index.npy", "does not fit its manifest; pack again into another folder")
        self._files = _Files()

    @property
    def resized(self) -> bool:
        """Whether any sample has another size than its source had."""
        return bool((self._index["size"] != self._index["source_size"]).any())

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._index)

    def id(self, index: int) -> str:
        row = self._row(index)
        begin = int(row["id_offset"])
        text = self._ids[begin : begin + int(row["id_bytes"])].tobytes().decode(errors="replace")
        return check_inside(text, f"{self.root / 'ids.txt'}: the id")

    def class_pixels(self) -> npt.NDArray[np.int64]:
        return np.array(self._class_pixels)

    def size(self, index: int) -> tuple[int, int]:
        height, width = self._row(index)["size"].tolist()
        return height, width

    def source_size(self, index: int) -> tuple[int, int]:
        height, width = self._row(index)["source_size"].tolist()
        return height, width

    def __getitem__(self, index: int) -> Sample:
        return self.lazy(index).whole()

    def label(self, index: int) -> Tensor | None:
        return self.lazy(index).label

    def crop(self, index: int, box: Box) -> Sample:
        return self.lazy(index).crop(box)

    def lazy(self, index: int) -> LazySample:
        """Label and further maps, and the image as a promise."""
        row = self._row(index)
        size = self.size(index)
        tiles = Tiles(size, self._tile)
        named = list(self._maps.items())
        head = self._read(index, 0, int(row["head_bytes"]))
        table_bytes = (len(named) + len(tiles)) * PART.itemsize
        if zlib.crc32(head[:table_bytes]) != row["table_crc"]:
            raise self._damaged(index, "its table of parts")
        table = np.frombuffer(head[:table_bytes], PART)
        ends = table_bytes + np.cumsum(table["bytes"], dtype=np.int64)
        maps = {}
        for part, (name, dtype) in enumerate(named):
            encoded = head[int(ends[part]) - int(table["bytes"][part]) : int(ends[part])]
            self._check(index, encoded, table[part], f"its map {name!r}" if name else "its label")
            maps[name] = decode_map(encoded, size, dtype)
        label = maps.pop("", None)
        decode = partial(self._decode, index, tiles, table[len(named) :], ends[len(named) :], maps)
        return LazySample(label, self.id(index), size, decode)

    def verify(self, progress: Callable[[int], None] = lambda more: None) -> None:
        """Reads every byte and decodes every sample; raises CorruptFile at the first damaged record or file."""
        for index in range(len(self)):
            self[index]
            progress(1)
        for name, entry in self.manifest["files"].items():
            _check_file(self.root / name, entry)

    def _decode(
        self,
        index: int,
        tiles: Tiles,
        table: npt.NDArray[Any],
        ends: npt.NDArray[np.int64],
        maps: dict[str, Tensor],
        box: Box,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def read(row: int, columns: range) -> list[bytes]:
            first, last = (row * tiles.grid[1] + column for column in (columns[0], columns[-1]))
            begin = int(ends[first]) - int(table["bytes"][first])
            content = self._read(index, begin, int(ends[last]) - begin)
            found = []
            for part in range(first, last + 1):
                end = int(ends[part]) - begin
                found.append(content[end - int(table["bytes"][part]) : end])
                self._check(index, found[-1], table[part], f"tile {part}")
            return found

        if box.top < 0 or box.left < 0 or min(box.height, box.width) < 1:
            raise ValueError(f"{box} is no part of an image")
        if box.top + box.height > tiles.size[0] or box.left + box.width > tiles.size[1]:
            raise ValueError(f"{box} reaches beyond {self.id(index)}, which is {tiles.size}")
        try:
            image = decode_image(box, tiles, read)
        except (OSError, SyntaxError) as error:  # what Pillow says of bytes that are no image
            raise self._damaged(index, f"its image ({error})") from error
        return image, {name: box.of(each) for name, each in maps.items()}

    def _row(self, index: int) -> Any:
        if not 0 <= index < len(self._index):
            raise IndexError(f"{self.root} holds {len(self._index)} samples; there is no {index}")
        return self._index[index]

    def _read(self, index: int, begin: int, count: int) -> bytes:
        row = self._index[index]
        path = self.root / shard_name(int(row["shard"]))
        content = self._files.read(path, int(row["offset"]) + begin, count)
        if len(content) != count:
            raise self._damaged(index, f"{count - len(content)} bytes: the file is too short")
        return content

    def _check(self, index: int, content: bytes, part: Any, what: str) -> None:
        if zlib.crc32(content) != part["crc"]:
            raise self._damaged(index, what)

    def _damaged(self, index: int, what: str) -> CorruptFile:
        path = self.root / shard_name(int(self._index[index]["shard"]))
        return CorruptFile(
            path,
            f"record {index} ({self.id(index)}) is damaged: {what}. Delete this shard and {MANIFEST} and run the same "
            "`dgseg data pack` again: it writes what is missing",
        )


class _Files:
    """Open files, the least recently used closed first: a pack may have more shards than a process may have files."""

    MOST = 128

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()

    def read(self, path: Path, begin: int, count: int) -> bytes:
        file = self._open.pop(path, None)
        if file is None:
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise CorruptFile(path, f"cannot be opened ({error.strerror})") from error
            if len(self._open) >= self.MOST:
                os.close(self._open.popitem(last=False)[1])
        self._open[path] = file
        content = os.pread(file, count, begin)
        while len(content) < count and (more := os.pread(file, count - len(content), begin + len(content))):
            content += more
        return content

    def __del__(self) -> None:
        for file in self._open.values():
            os.close(file)


def _manifest(root: Path) -> dict[str, Any]:
    if not (root / MANIFEST).exists():
        if (root / PLAN).exists():
            shards = read_json(root / PLAN)["shards"]
            there = len(list(root.glob("shard-*.dgs")))
            raise DataError(
                f"{root}: packing is not finished ({there} of {shards} shards). "
                "Run the same `dgseg data pack` again: it goes on from there"
            )
        raise DataError(f"{root} holds no pack (no {MANIFEST}). `dgseg data pack <dataset> -o {root}` writes one")
    manifest = read_json(root / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise DataError(f"{root} has pack format {manifest.get('format')}, this dgseg reads {FORMAT}: pack it again")
    if manifest != sealed(manifest):
        raise CorruptFile(root / MANIFEST, "is damaged. Delete it and run the same `dgseg data pack` again")
    for name, entry in manifest["files"].items():
        have = (root / name).stat().st_size if (root / name).exists() else None
        if have != entry["bytes"]:
            said = "is missing" if have is None else f"has {have} bytes, not {entry['bytes']}"
            raise CorruptFile(
                root / name, f"{said}. Delete it and {MANIFEST}, and run the same `dgseg data pack` again"
            )
    return manifest


def _check_file(path: Path, entry: dict[str, int]) -> None:
    # Mapped: a shard need not fit into memory, and pages that are read anyway are read once.
    content = np.memmap(path, np.uint8, "r")
    if zlib.crc32(content.data) != entry["crc32"]:
        raise CorruptFile(path, f"is damaged. Delete it and {MANIFEST}, and run the same `dgseg data pack` again")
