"""Candidates for packing: what a 1280×720 image or label costs in bytes and in milliseconds to decode. The table in
dgseg/data/pack/README.md comes from here."""

import io
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dgseg.bench.data_source import scene
from dgseg.bench.data_throughput import CROP, SIZE
from dgseg.bench.part import Part, Row
from dgseg.bench.timing import interleave
from dgseg.data import Box, Sample
from dgseg.data.augment.geometry import resized
from dgseg.data.pack.codec import Tiles, decode_image, encode_image

# JPEG's quality, None for lossless WebP; height and width
_TILES = (
    (95, SIZE),
    (95, (360, 320)),
    (95, (240, 256)),
    (95, (144, 256)),
    (95, (144, 128)),
    (95, (72, 80)),
    (None, (144, 256)),
)


@dataclass(frozen=True)
class Candidate:
    name: str
    bytes: int
    decode: Callable[[], Any]
    psnr: float | None = None  # None: lossless, or no picture


def candidates(folder: Path) -> list[Candidate]:
    image, label = scene(torch.Generator().manual_seed(0))
    sample = resized(Sample(image, label, ""), SIZE)
    assert sample.label is not None
    pixels = sample.image.permute(1, 2, 0).contiguous().numpy()
    return [*_whole_images(pixels), *_tiled(sample), *_labels(sample.label.numpy()), *_containers(folder)]


def _whole_images(pixels: Any) -> list[Candidate]:
    from PIL import Image

    options: dict[str, dict[str, Any]] = {
        "PNG": {"format": "PNG"},
        "WebP lossless": {"format": "WEBP", "lossless": True, "quality": 50, "method": 3},
        "WebP 95": {"format": "WEBP", "quality": 95},
        "JPEG 90 4:2:0": {"format": "JPEG", "quality": 90, "subsampling": "4:2:0"},
        "JPEG 95 4:2:0": {"format": "JPEG", "quality": 95, "subsampling": "4:2:0"},
        "JPEG 95 4:4:4": {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"},
    }
    found = []
    for name, chosen in options.items():
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, **chosen)
        encoded = out.getvalue()

        def decode(encoded: bytes = encoded) -> Any:
            return np.asarray(Image.open(io.BytesIO(encoded)))

        found.append(Candidate(f"{name}, whole", len(encoded), decode, _psnr(decode(), pixels)))
    return found


def _tiled(sample: Sample) -> list[Candidate]:
    found = []
    random = np.random.default_rng(0)
    places = [
        Box(int(random.integers(SIZE[0] - CROP[0] + 1)), int(random.integers(SIZE[1] - CROP[1] + 1)), *CROP)
        for _ in range(64)
    ]
    for quality, tile in _TILES:
        tiles = Tiles(SIZE, tile)
        parts = encode_image(sample.image, tiles, quality)
        turn = iter(range(10**9))

        def read(row: int, columns: range, parts: list[bytes] = parts, across: int = tiles.grid[1]) -> list[bytes]:
            return [parts[row * across + column] for column in columns]

        def decode(tiles: Tiles = tiles, read: Any = read, turn: Any = turn) -> Any:
            return decode_image(places[next(turn) % len(places)], tiles, read)

        codec = "WebP lossless" if quality is None else f"JPEG {quality} 4:4:4"
        name = f"512×512 crop of {codec}, tiles {tile[0]}×{tile[1]}"
        found.append(Candidate(name, sum(map(len, parts)), decode))
    return found


def _labels(label: Any) -> list[Candidate]:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(label).save(out, "PNG", optimize=True)
    png, raw = out.getvalue(), label.tobytes()
    deflated, small = zlib.compress(raw, 9), lzma.compress(raw, preset=6)
    found = [
        Candidate("label, PNG", len(png), lambda: np.asarray(Image.open(io.BytesIO(png)))),
        Candidate("label, zlib 9", len(deflated), lambda: zlib.decompress(deflated, bufsize=len(raw))),
        Candidate("label, LZMA", len(small), lambda: lzma.decompress(small)),
    ]
    edges = np.flatnonzero(np.diff(label.ravel(), prepend=-1))
    values, runs = label.ravel()[edges], np.diff(edges, append=label.size).astype(np.uint32)
    packed = zlib.compress(values.tobytes() + runs.tobytes(), 9)

    def repeat() -> Any:
        content = zlib.decompress(packed)
        return np.repeat(np.frombuffer(content, np.uint8, len(values)), np.frombuffer(content, "<u4", -1, len(values)))

    found.append(Candidate("label, runs, zlib 9", len(packed), repeat))
    try:
        import zstandard
    except ImportError:
        return found
    zstd = zstandard.ZstdCompressor(level=19).compress(raw)
    return [*found, Candidate("label, zstd 19", len(zstd), lambda: zstandard.ZstdDecompressor().decompress(zstd))]


def _containers(folder: Path) -> list[Candidate]:
    """A record of 400 kB out of 200, from the page cache."""
    count, record = 200, np.random.default_rng(0).bytes(400_000)
    path = folder / "shard"
    path.write_bytes(record * count)
    file = path.open("rb", buffering=0)
    turn = iter(range(10**9))

    def at() -> int:
        return next(turn) * 7 % count * len(record)

    mapped = np.memmap(path, np.uint8, "r")
    found = [
        Candidate("reading a record, shard and pread", len(record), lambda: os.pread(file.fileno(), len(record), at())),
        Candidate("reading a record, shard opened each time", len(record), lambda: _opened(path, at(), len(record))),
        Candidate(
            "reading a record, shard mapped", len(record), lambda: mapped[(x := at()) : x + len(record)].tobytes()
        ),
    ]
    try:
        import lmdb
    except ImportError:
        return found
    store = lmdb.open(str(folder / "lmdb"), map_size=10**9, sync=False)
    with store.begin(write=True) as transaction:
        for index in range(count):
            transaction.put(str(index * len(record)).encode(), record)

    def get() -> Any:
        with store.begin() as transaction:
            return transaction.get(str(at()).encode())

    return [*found, Candidate("reading a record, LMDB", len(record), get)]


def _opened(path: Path, begin: int, count: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        return file.read(count)


def _psnr(found: Any, truth: Any) -> float | None:
    noise = np.mean((found.astype(np.float64) - truth) ** 2)
    return None if noise == 0 else float(10 * np.log10(255**2 / noise))


def run(quick: bool) -> Part:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="dgseg-bench-") as folder:
            everybody = candidates(Path(folder))
            for candidate in everybody:
                candidate.decode()
            runs = {candidate.name: candidate.decode for candidate in everybody}
            times = interleave(runs, torch.device("cpu"), 3 if quick else 30)
    finally:
        torch.set_num_threads(threads)
    rows = [
        Row(f"{each.name}: {each.bytes / 1e3:.0f} kB{_quality(each)}", 1e3 * times[each.name].median, "ms")
        for each in everybody
    ]
    return Part(
        "codecs",
        "what an image or label of 1280×720 may be stored as, and how long it takes to decode; one thread",
        rows,
    )


def _quality(candidate: Candidate) -> str:
    return f", {candidate.psnr:.1f} dB" if candidate.psnr else ""
