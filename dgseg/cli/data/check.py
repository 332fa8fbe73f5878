"""dgseg data check: every file of a dataset, read once."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dgseg.cli.data.progress import progress_bar
from dgseg.data.checking import Report, SplitReport, check
from dgseg.data.dataset import DataError
from dgseg.data.datasets import dataset_class, open_dataset, parse_spec
from dgseg.data.files import FileDataset
from dgseg.data.labels import CLASSES
from dgseg.data.listing import MissingSplit
from dgseg.data.lists import write_list

DESCRIPTION = (
    "Reads every file once: does it decode, do image and label have one size, are the label's ids known, is every "
    "split complete, does an image of train occur in val or test again. Keeps the class frequencies for rare-class "
    "sampling. Exit status 1 if anything is wrong."
)
SHOWN = 20  # bad files on the screen; the quarantine and --json have all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="gta5, cityscapes, …, or folder for your own images and labels")
    parser.add_argument("root", help="its folder; options follow after commas: /data/generated,void=19")
    parser.add_argument("--split", action="append", help="only this one; may be repeated (default: all that are there)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--quarantine", type=Path, metavar="FILE", help="write what training has to skip there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def main(arguments: argparse.Namespace) -> int:
    for output in filter(None, (arguments.quarantine, arguments.json)):
        output.parent.mkdir(parents=True, exist_ok=True)  # rather now than after the scan
    opened = _open(arguments.dataset, arguments.root, arguments.split)
    datasets = opened.datasets
    with progress_bar(f"checking {datasets[0].name}", sum(len(dataset) for dataset in datasets)) as progress:
        report = check(datasets, workers=arguments.workers, progress=progress)
    if arguments.quarantine:
        header = {"quarantine": datasets[0].name, "splits": [dataset.split for dataset in datasets]}
        write_list(arguments.quarantine, report.quarantine(), header)
    if arguments.json:
        arguments.json.write_text(json.dumps(_as_json(report, opened.absent), indent=1) + "\n", encoding="utf-8")
    console = Console(highlight=False)
    _show(console, report, opened.absent)
    if arguments.quarantine:
        console.print(f"{len(report.quarantine())} samples to skip are in {arguments.quarantine}", soft_wrap=True)
    return 0 if report.clean else 1


@dataclass(frozen=True)
class _Opened:
    datasets: list[FileDataset]
    absent: list[str]  # splits of which nothing is there


def _open(name: str, root: str, splits: list[str] | None) -> _Opened:
    kind = dataset_class(name)
    if not issubclass(kind, FileDataset):
        raise DataError(f"{name} has no files to check")
    spec = parse_spec(f"{name}={root}")
    wanted = splits or ([spec.split] if spec.split else [])
    opened: list[FileDataset] = []
    absent: dict[str, MissingSplit] = {}
    for split in wanted or [split for split in kind.splits if split != "all"]:
        try:
            opened.append(_open_split(kind, name, spec.path, split, spec.options))
        except MissingSplit as error:
            if wanted:
                raise
            absent[split] = error
    if not opened and "all" in kind.splits:
        return _Opened([_open_split(kind, name, spec.path, "all", spec.options)], [])
    if not opened:
        raise next(iter(absent.values()))
    return _Opened(opened, list(absent))


def _open_split(kind: type[FileDataset], name: str, path: str, split: str, options: dict[str, str]) -> FileDataset:
    given: dict[str, Any] = {"labels": split not in kind.unlabelled, **options, "strict": False}
    dataset = open_dataset(name, path, split, **given)
    assert isinstance(dataset, FileDataset)
    return dataset


def _show(console: Console, report: Report, absent: list[str]) -> None:
    files = Table("dataset", "split", "files", "shipped", "bad", "sizes", "void", title="Files", title_justify="left")
    for split in report.splits:
        void, outside = _percent(split, split.void), _percent(split, split.out_of_distribution)
        files.add_row(
            split.dataset,
            split.split,
            f"{split.files:,}" + (f" + {split.quarantined:,} in quarantine" if split.quarantined else ""),
            "" if split.expected is None else f"{split.expected:,}" + ("" if split.complete else " [red]≠[/red]"),
            f"[red]{len(split.bad):,}[/red]" if split.bad else "0",
            _sizes(split),
            void + (f", {outside} out of distribution" if split.out_of_distribution else ""),
        )
    console.print(files)
    if absent:
        console.print(f"Not here: {', '.join(absent)}")
    _show_problems(console, report)
    labelled = [split for split in report.splits if split.classes.any()]
    if labelled:
        shares = Table("class", title="Share of labelled pixels in %", title_justify="left")
        for split in labelled:
            shares.add_column(split.split, justify="right")
        for train_id, name in enumerate(CLASSES):
            values = [100 * split.classes[train_id] / split.classes.sum() for split in labelled]
            shares.add_row(name, *(f"{value:.3f}" if value else "–" for value in values))
        console.print(shares)
    console.print("Nothing is wrong." if report.clean else "[red]Something is wrong: see above.[/red]")


def _show_problems(console: Console, report: Report) -> None:
    def line(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    bad = [entry for split in report.splits for entry in split.bad]
    for sample, reason in bad[:SHOWN]:
        line(f"bad: {sample}: {reason}")
    if len(bad) > SHOWN:
        line(f"… and {len(bad) - SHOWN:,} more: --quarantine and --json write them all")
    for train, held_out in report.leaks[:SHOWN]:
        line(f"leak: {train} and {held_out} are the same image")
    if len(report.leaks) > SHOWN:
        line(f"… and {len(report.leaks) - SHOWN:,} more images of train in val or test")
    for split in report.splits:
        if not split.files:
            line(f"empty: {split.dataset}/{split.split} has no files; unpack the provider's archives there")
        elif not split.complete:
            shipped = f"the provider ships {split.expected:,}"
            line(f"incomplete: {split.dataset}/{split.split} has {split.files:,} files, {shipped}")
        if split.repeated:
            line(f"note: {split.repeated:,} images of {split.dataset}/{split.split} repeat others of it")


def _percent(split: SplitReport, pixels: int) -> str:
    every = int(split.classes.sum()) + split.void + split.out_of_distribution
    return f"{100 * pixels / every:.1f} %" if every else "no labels"


def _sizes(split: SplitReport) -> str:
    common = [f"{width}×{height}" for (width, height), _ in split.sizes.most_common(2)]
    return ", ".join(common) + (f" and {len(split.sizes) - 2} more" if len(split.sizes) > 2 else "")


def _as_json(report: Report, absent: list[str]) -> dict[str, Any]:
    return {
        "clean": report.clean,
        "absent": absent,
        "leaks": report.leaks,
        "splits": [
            {
                "dataset": split.dataset,
                "split": split.split,
                "files": split.files,
                "expected": split.expected,
                "quarantined": split.quarantined,
                "sizes": {f"{width}x{height}": number for (width, height), number in split.sizes.items()},
                "bad": split.bad,
                "class_pixels": dict(zip(CLASSES, split.classes.tolist(), strict=True)),
                "void_pixels": split.void,
                "out_of_distribution_pixels": split.out_of_distribution,
                "repeated": split.repeated,
            }
            for split in report.splits
        ],
    }
