"""Candidates for packing: what a 1280×720 image or label costs in bytes and in milliseconds to decode. The table in
dgseg/data/pack/README.md comes from here."""

import io
import lzma
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
from dgseg.bench.timing import Times, interleave
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
    group: str
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

        found.append(Candidate("image, whole", name, len(encoded), decode, _psnr(decode(), pixels)))
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

        name = f"{'WebP lossless' if quality is None else f'JPEG {quality} 4:4:4'}, tiles {tile[0]}×{tile[1]}"
        found.append(Candidate("image, 512×512 crop", name, sum(map(len, parts)), decode))
    return found


def _labels(label: Any) -> list[Candidate]:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(label).save(out, "PNG", optimize=True)
    png, raw = out.getvalue(), label.tobytes()
    deflated, small = zlib.compress(raw, 9), lzma.compress(raw, preset=6)
    found = [
        Candidate("label", "PNG", len(png), lambda: np.asarray(Image.open(io.BytesIO(png)))),
        Candidate("label", "zlib 9", len(deflated), lambda: zlib.decompress(deflated, bufsize=len(raw))),
        Candidate("label", "LZMA", len(small), lambda: lzma.decompress(small)),
    ]
    edges = np.flatnonzero(np.diff(label.ravel(), prepend=-1))
    values, runs = label.ravel()[edges], np.diff(edges, append=label.size).astype(np.uint32)
    packed = zlib.compress(values.tobytes() + runs.tobytes(), 9)

    def repeat() -> Any:
        content = zlib.decompress(packed)
        return np.repeat(np.frombuffer(content, np.uint8, len(values)), np.frombuffer(content, "<u4", -1, len(values)))

    found.append(Candidate("label", "runs, zlib 9", len(packed), repeat))
    try:
        import zstandard
    except ImportError:
        return found
    zstd = zstandard.ZstdCompressor(level=19).compress(raw)
    return [*found, Candidate("label", "zstd 19", len(zstd), lambda: zstandard.ZstdDecompressor().decompress(zstd))]


def _containers(folder: Path) -> list[Candidate]:
    """A record of 400 kB out of 200, from the page cache."""
    import os

    count, record = 200, np.random.default_rng(0).bytes(400_000)
    path = folder / "shard"
    path.write_bytes(record * count)
    file = os.open(path, os.O_RDONLY)
    turn = iter(range(10**9))
    found = [
        Candidate(
            "read 400 kB",
            "shard, pread",
            len(record),
            lambda: os.pread(file, len(record), next(turn) * 7 % count * len(record)),
        ),
        Candidate(
            "read 400 kB",
            "shard, open and pread",
            len(record),
            lambda: _opened(path, next(turn) * 7 % count, len(record)),
        ),
    ]
    mapped = np.memmap(path, np.uint8, "r")
    found.append(
        Candidate(
            "read 400 kB",
            "shard, mmap",
            len(record),
            lambda: mapped[(at := next(turn) * 7 % count * len(record)) : at + len(record)].tobytes(),
        )
    )
    try:
        import lmdb
    except ImportError:
        return found
    store = lmdb.open(str(folder / "lmdb"), map_size=10**9, sync=False)
    with store.begin(write=True) as transaction:
        for index in range(count):
            transaction.put(str(index).encode(), record)

    def get() -> Any:
        with store.begin() as transaction:
            return transaction.get(str(next(turn) * 7 % count).encode())

    return [*found, Candidate("read 400 kB", "LMDB", len(record), get)]


def _opened(path: Path, index: int, count: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(index * count)
        return file.read(count)


def _psnr(found: Any, truth: Any) -> float | None:
    noise = np.mean((found.astype(np.float64) - truth) ** 2)
    return None if noise == 0 else float(10 * np.log10(255**2 / noise))


def run(rounds: int) -> list[tuple[Candidate, Times]]:
    with tempfile.TemporaryDirectory(prefix="dgseg-bench-") as folder:
        everybody = candidates(Path(folder))
        for candidate in everybody:
            candidate.decode()
        times = interleave({f"{c.group}/{c.name}": c.decode for c in everybody}, torch.device("cpu"), rounds)
        return [(candidate, times[f"{candidate.group}/{candidate.name}"]) for candidate in everybody]


def text(results: list[tuple[Candidate, Times]]) -> str:
    lines = [
        "codecs: 1280×720, one thread",
        f"    {'':22}{'':34}{'kB':>10}{'PSNR dB':>10}{'median ms':>12}{'least ms':>12}",
    ]
    for candidate, times in results:
        psnr = f"{candidate.psnr:.1f}" if candidate.psnr else ""
        size = f"{candidate.bytes / 1e3:.0f}"
        spent = f"{1e3 * times.median:>12.3f}{1e3 * times.least:>12.3f}"
        lines.append(f"    {candidate.group:22}{candidate.name:34}{size:>10}{psnr:>10}{spent}")
    return "\n".join(lines)
