"""dgseg data select: the papers' subsets as lists of samples."""

import argparse
from pathlib import Path

from dgseg.cli.data.progress import progress_bar
from dgseg.data.datasets import open_dataset, parse_spec
from dgseg.data.files import FileDataset
from dgseg.data.lists import write_list
from dgseg.data.selection import PRESETS, select
from dgseg.data.statistics import class_pixels

DESCRIPTION = (
    "Writes which images one of the papers' subsets holds. Use the list as an option of the dataset: "
    "gta5=/data/gta5@all,files=list.txt. The same files and seed give the same list. Presets: "
    + "; ".join(f"{name}: {preset.says}" for name, preset in PRESETS.items())
    + "."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", choices=list(PRESETS))
    parser.add_argument("root", help="the dataset's folder; options follow after commas: /data/gta5,quarantine=bad.txt")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="where the list goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes that count classes (default: one per core)")


def main(arguments: argparse.Namespace) -> int:
    preset = PRESETS[arguments.preset]
    spec = parse_spec(f"{preset.dataset}={arguments.root}")
    if spec.split:
        raise ValueError(f"{arguments.preset} takes its splits itself; drop @{spec.split}")
    if arguments.seed < 0:
        raise ValueError(f"--seed must be at least 0; it is {arguments.seed}")
    if "seed" in spec.options:
        raise ValueError("the seed is no option of the folder: give it as --seed")
    if preset.counts_classes:
        (split,) = preset.splits
        dataset = open_dataset(preset.dataset, spec.path, split, **spec.options)
        assert isinstance(dataset, FileDataset)
        with progress_bar(f"counting the classes of {preset.dataset}", len(dataset)) as progress:
            class_pixels(dataset, workers=arguments.workers, progress=progress)
    selection = select(arguments.preset, spec.path, seed=arguments.seed, **spec.options)
    write_list(arguments.output, selection.ids, selection.header)
    counts = ", ".join(f"{number:,} of {split}" for split, number in selection.header["images"].items())
    print(f"{arguments.output}: {len(selection.ids):,} images of {preset.dataset} ({counts}), seed {arguments.seed}")
    return 0
