"""dgseg data stats: how the classes are distributed in two datasets."""

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from dgseg.cli.data.progress import progress_bar
from dgseg.data.dataset import Dataset
from dgseg.data.datasets import from_spec
from dgseg.data.files import FileDataset
from dgseg.data.labels import CLASSES
from dgseg.data.statistics import class_pixels, shares

DESCRIPTION = (
    "Shares of the 19 classes in the labelled pixels of two datasets, as a table and, with -o, as a plot. A dataset is "
    "name=path[@split][,option=value]: gta5=/data/gta5@train, acdc=/data/acdc@val,condition=fog, streets=fog@val."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="name=path[@split]")
    parser.add_argument("second", metavar="B", help="name=path[@split]")
    parser.add_argument("-o", "--output", type=Path, metavar="PLOT", help="a picture: .png, .svg or .pdf")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the shares there")
    parser.add_argument("--workers", type=int, help="processes that count (default: one per core)")


def main(arguments: argparse.Namespace) -> int:
    specs = (arguments.first, arguments.second)
    if specs[0] == specs[1]:
        raise ValueError("A and B are the same dataset; name two")
    if arguments.output and arguments.output.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"the plot {arguments.output} must end in .png, .svg or .pdf")
    datasets = [from_spec(spec) for spec in specs]
    first, second = (_shares(dataset, arguments.workers) for dataset in datasets)
    names = [_name(dataset) for dataset in datasets]
    if names[0] == names[1]:
        names = list(specs)
    _print(names, first, second)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        content = {
            spec: dict(zip(CLASSES, values.tolist(), strict=True))
            for spec, values in zip(specs, (first, second), strict=True)
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if arguments.output:
        plot(arguments.output, dict(zip(names, (first, second), strict=True)))
        print(arguments.output)
    return 0


def _print(names: list[str], first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> None:
    table = Table("class", title="Share of labelled pixels in %", title_justify="left")
    for name in (*names, "B / A"):
        table.add_column(name, justify="right")
    for name, a, b in zip(CLASSES, first, second, strict=True):
        table.add_row(name, _percent(a), _percent(b), f"{b / a:.2f}" if a and b else "–")
    Console(highlight=False).print(table)


def plot(path: Path, distributions: dict[str, npt.NDArray[np.float64]]) -> None:
    """Bars per class on a logarithmic scale: rare classes lie three decades below the road."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(CLASSES))
    width = 0.8 / len(distributions)
    percents = {name: 100 * values for name, values in distributions.items()}
    floor = min(values[values > 0].min() for values in percents.values()) / 2
    for number, ((name, values), colour) in enumerate(zip(percents.items(), ("#3b6fb6", "#e08a2e"), strict=True)):
        centres = places + (number - (len(distributions) - 1) / 2) * width
        axes.bar(centres, np.maximum(values, floor) - floor, width, bottom=floor, label=name, color=colour)
        for centre in centres[values == 0]:
            axes.text(centre, floor * 1.1, "none", rotation=90, ha="center", va="bottom", fontsize=7, color=colour)
    axes.set_yscale("log")
    axes.set_ylim(floor, 100)
    axes.set_ylabel("share of labelled pixels in %")
    axes.set_xticks(places, CLASSES, rotation=40, ha="right")
    axes.set_xlim(-0.6, len(CLASSES) - 0.4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(axis="y", which="major", alpha=0.4)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _shares(dataset: Dataset, workers: int | None) -> npt.NDArray[np.float64]:
    if isinstance(dataset, FileDataset):
        with progress_bar(f"counting {dataset.name}", len(dataset)) as progress:
            class_pixels(dataset, workers=workers, progress=progress)
    return shares(dataset)


def _name(dataset: Dataset) -> str:
    parts = [dataset.domain] if dataset.domain.startswith(dataset.name) else [dataset.name, dataset.domain]
    return "/".join([*parts, *filter(None, [getattr(dataset, "split", None)])])


def _percent(share: float) -> str:
    return f"{100 * share:.3f}" if share else "–"
