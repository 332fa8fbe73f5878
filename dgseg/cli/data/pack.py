"""dgseg data pack: any data set, once, into the form that trains fast."""

import argparse
import os
import time
from pathlib import Path

from dgseg.cli.data.progress import progress_bar
from dgseg.data import from_spec
from dgseg.data.pack import Packed, Settings, pack

DESCRIPTION = (
    "Rewrites a data set at training resolution into checksummed shards that are read at random and decoded by parts. "
    "Interrupted, the same command goes on where it was. Labels stay lossless."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="name=path or name=path@split, as everywhere")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="new or begun earlier")
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="resize to height x width, 720x1280 for one (default: as they come)"
    )
    parser.add_argument("--keep-ratio", action="store_true", help="fit into --size, keeping each image's shape")
    parser.add_argument("--quality", type=_quality, default=95, help="JPEG quality, or lossless (default: 95)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="processes (default: one per core)")
    parser.add_argument("--verify", action="store_true", help="read everything back afterwards")


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not height x width, as in 720x1280")
    return int(height), int(width)


def _quality(text: str) -> int | None:
    if text == "lossless":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 to 100 nor 'lossless'")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    if arguments.keep_ratio and arguments.size is None:
        raise SystemExit("dgseg data pack: --keep-ratio says how to fit into --size: give --size HxW, too")
    if arguments.workers < 1:
        raise SystemExit("dgseg data pack: --workers must be at least 1")
    settings = Settings(size=arguments.size, keep_ratio=arguments.keep_ratio, quality=arguments.quality)
    dataset = from_spec(arguments.dataset)
    start = time.monotonic()
    with progress_bar(f"packing {dataset.name}", len(dataset)) as progress:
        pack(dataset, arguments.out, settings, workers=arguments.workers, progress=progress)
    packed = Packed(arguments.out)
    if arguments.verify:
        with progress_bar("reading back", len(packed)) as progress:
            packed.verify(progress)
    size = sum(entry["bytes"] for entry in packed.manifest["files"].values())
    print(
        f"{arguments.out}: {len(packed):,} samples, {packed.manifest['shards']} shards, {size / 1e6:,.0f} MB "
        f"({size / len(packed) / 1e3:.0f} kB each), {time.monotonic() - start:.0f} s"
    )
    print(f"Train on it as packed={arguments.out}")
    return 0
