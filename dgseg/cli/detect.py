"""dgseg detect: how well models tell what no class covers."""

import argparse
import csv
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dgseg.cli import model_arguments
from dgseg.cli.data.progress import advanced_by, progress_bar
from dgseg.data.dataset import Dataset
from dgseg.data.datasets import parse_spec
from dgseg.evaluation.detection import Detection, detect, table
from dgseg.evaluation.loading import scored_dataset
from dgseg.evaluation.scorers import NAMES, scorers_of
from dgseg.models.trained import trained

DESCRIPTION = textwrap.fill(
    "Scores how well models find objects of no known class, beside how well they tell the known ones: AUROC, AP and "
    "FPR95 of pixels; sIoU, PPV and F1 of components above the threshold of the best pixel F1; mIoU and mAcc. Images "
    "are shown whole, at their own size; one that cannot be read is named and skipped, and the exit status is then 1. "
    "Scorers: "
    + ", ".join(NAMES)
    + "; learned is the model's uncertainty head; mahalanobis is fitted to training images first (--fit).",
    100,
)
EPILOG = """examples:
  dgseg detect start=runs/detect-streets-start/weights.safetensors:max_softmax,odin,mahalanobis,energy \\
    method=runs/detect-streets-stage2/weights.safetensors:learned \\
    --data streets=fog@test,unknown=true streets=night@test,unknown=true --fit streets=game@train
  dgseg detect runs/detect-stage2/weights.safetensors:learned --data acdc_poc=data/acdc_poc --csv table.csv"""


@dataclass(frozen=True)
class Asked:
    label: str
    weights: Path
    scorers: tuple[str, ...]


def asked(text: str) -> Asked:
    """[LABEL=]WEIGHTS:SCORER[,SCORER…]"""
    where, colon, names = text.rpartition(":")
    label, equals, weights = where.partition("=")
    if "/" in label:  # of a folder's name, as in runs/lr=0.1/weights.safetensors
        label, equals, weights = "", "", where
    scorers = tuple(names.split(","))
    if not colon or not where or not all(scorers):
        raise argparse.ArgumentTypeError(f"{text!r}: write [LABEL=]WEIGHTS:SCORER[,SCORER…], as w.safetensors:energy")
    if unknown := [name for name in scorers if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"there is no scorer {unknown[0]!r}; there are {', '.join(NAMES)}")
    if not equals:
        path = Path(where)
        folder = path.absolute().parent.name
        return Asked(folder if folder and path.name == "weights.safetensors" else path.stem, path, scorers)
    return Asked(label, Path(weights), scorers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.add_argument(
        "models",
        type=asked,
        nargs="+",
        metavar="[LABEL=]WEIGHTS:SCORER[,SCORER…]",
        help="weights that say their architecture, and how they are asked; LABEL stands in the table",
    )
    parser.add_argument(
        "--data", nargs="+", action="extend", required=True, metavar="SPEC", help="name=path[@split][,option=value]"
    )
    parser.add_argument("--fit", metavar="SPEC", help="labelled training images, for mahalanobis")
    parser.add_argument("--fit-images", type=int, default=100, metavar="N", help="so many of them (default: 100)")
    parser.add_argument("--limit", type=int, metavar="N", help="images of each data set (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every row, in fractions")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="every row, in fractions")
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU if there is one)")


def main(arguments: argparse.Namespace) -> int:
    _check(arguments)
    model_arguments.check_outputs(arguments.json, arguments.csv)
    datasets = [scored_dataset(spec) for spec in arguments.data]
    training = None if arguments.fit is None else scored_dataset(arguments.fit)
    device = model_arguments.torch_device(arguments.device)
    images = sum(min(len(each), arguments.limit or len(each)) for each in datasets)
    found: dict[str, list[Detection]] = {}
    broken: dict[str, str] = {}

    # All are there, and can be asked so, before the first is.
    ready = {}
    for each in arguments.models:
        model = trained(each.weights).to(device)
        ready[each.label] = model, scorers_of(model, each.scorers, training, arguments.fit_images)
    with progress_bar("images", images * len(ready)) as progress:
        for label, (model, scorers) in ready.items():
            found[label], evaluation = detect(
                model, datasets, scorers, limit=arguments.limit, device=device, progress=advanced_by(progress)
            )
            broken |= evaluation.corrupt
    # First of all: a file that cannot be written must not take the scores along.
    print(table(found).text())
    print(f"\n{', '.join(f'{each.domain}: {_images(each, arguments.limit)}' for each in datasets)}")
    if bare := dict.fromkeys(row.dataset for rows in found.values() for row in rows if math.isnan(row.ap)):
        print(f"\n{', '.join(bare)}: no pixel of an unknown object (the streets world has some with unknown=true)")
    if broken:
        print(f"\n{len(broken)} images could not be read and are in no score:")
        for where, reason in list(broken.items())[:10]:
            print(f"  {where}: {reason}")
    for path, write in ((arguments.json, _write_json), (arguments.csv, _write_csv)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, arguments.models, found)
    return 1 if broken else 0


def _images(dataset: Dataset, limit: int | None) -> str:
    count = len(dataset)
    return f"{count} images" if limit is None or limit >= count else f"{limit} of {count} images"


def _check(arguments: argparse.Namespace) -> None:
    labels = [each.label for each in arguments.models]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"two models are called {twice[0]!r}: write LABEL=WEIGHTS:SCORER")
    for each in arguments.models:
        if not each.weights.is_file():
            raise ValueError(f"there is no weights file at {each.weights}")
        if "mahalanobis" in each.scorers and arguments.fit is None:
            raise ValueError("mahalanobis is fitted to labelled training images: name them with --fit")
    if arguments.fit_images < 1 or (arguments.limit is not None and arguments.limit < 1):
        raise ValueError("--fit-images and --limit must be at least 1")
    for spec in arguments.data:
        if arguments.fit is not None and _place(spec) == _place(arguments.fit):
            raise ValueError(f"--fit {arguments.fit} is what is scored: fit to what the model was trained on")


def _place(spec: str) -> tuple[str, str, str | None]:
    """Images lie there, whatever the options choose or change of them."""
    parsed = parse_spec(spec)
    return parsed.name, parsed.path, parsed.split


def _rows(models: Sequence[Asked], found: Mapping[str, Sequence[Detection]]) -> list[dict[str, object]]:
    weights = {each.label: str(each.weights) for each in models}
    return [
        {"model": label, "weights": weights[label]}
        | {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(row).items()
        }
        for label, rows in found.items()
        for row in rows
    ]


def _write_json(path: Path, models: Sequence[Asked], found: Mapping[str, Sequence[Detection]]) -> None:
    path.write_text(json.dumps(_rows(models, found), indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, models: Sequence[Asked], found: Mapping[str, Sequence[Detection]]) -> None:
    rows = _rows(models, found)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
