"""dgseg detect: `dgseg evaluate --scorers` of several models at once, in one table."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Annotated

from dgseg.cli import model_arguments
from dgseg.cli.arguments import File, OmitArgPrefixes, Positional, Specs, Work, arg, run_name
from dgseg.cli.data.progress import advanced_by, progress_bar
from dgseg.cli.evaluate import Fit
from dgseg.data.dataset import Dataset
from dgseg.data.datasets import parse_spec
from dgseg.evaluation.detection import Detection, detect, table
from dgseg.evaluation.loading import scored_dataset
from dgseg.evaluation.report.table import csv_text, finite
from dgseg.evaluation.scorers import NAMES
from dgseg.models.trained import trained

DESCRIPTION = (
    "Scores how well models find objects of no known class, beside how well they tell the known ones: AUROC, AP and "
    "FPR95 of pixels; sIoU, PPV and F1 of components above the threshold of the best pixel F1; mIoU and mAcc. Images "
    "are shown whole, at their own size; one that cannot be read is named and skipped, and the exit status is then 1. "
    f"Scorers: {', '.join(NAMES)}; learned is the model's uncertainty head; mahalanobis is fitted to training images "
    "first (--fit)."
)
QUERY = "[LABEL=]WEIGHTS:SCORER[,SCORER…]"
EXAMPLES = """\
  dgseg detect start=runs/detect-streets-start/weights.safetensors:max_softmax,odin,mahalanobis,energy \\
    method=runs/detect-streets-stage2/weights.safetensors:learned \\
    --data streets=fog@test,unknown=true streets=night@test,unknown=true --fit streets=game@train
  dgseg detect runs/detect-stage2/weights.safetensors:learned --data acdc_poc=data/acdc_poc --csv table.csv"""


@dataclass(frozen=True)
class ModelQuery:
    label: str
    weights: Path
    scorers: tuple[str, ...]


@dataclass(frozen=True)
class Output:
    """What is written."""

    json: File = None
    """Every row, in fractions."""
    csv: File = None
    """Every row, in fractions."""


@dataclass(frozen=True)
class Arguments:
    models: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[LABEL=]WEIGHTS:SCORER[,SCORER…]", help_behavior_hint="")
    ]
    """Weights that say their architecture, and how they are scored; LABEL stands in the table."""
    data: Specs
    """name=path[@split][,option=value]; without a split the one that is scored: val, or streets' test."""
    mahalanobis: OmitArgPrefixes[Fit]
    work: OmitArgPrefixes[Work]
    output: OmitArgPrefixes[Output]


def query(text: str) -> ModelQuery:
    """A model and its scorers, as QUERY has them."""
    where, colon, names = text.rpartition(":")
    label, equals, weights = where.partition("=")
    if "/" in label:  # of a folder's name, as in runs/lr=0.1/weights.safetensors
        label, equals, weights = "", "", where
    scorers = tuple(names.split(","))
    if not colon or not where or not all(scorers):
        raise ValueError(f"{text!r}: write {QUERY}, as w.safetensors:energy")
    if unknown := [name for name in scorers if name not in NAMES]:
        raise ValueError(f"there is no scorer {unknown[0]!r}; there are {', '.join(NAMES)}")
    if not equals:
        label, weights = run_name(Path(where)), where
    return ModelQuery(label, Path(weights), scorers)


def main(arguments: Arguments) -> int:
    if not arguments.models:
        raise ValueError(f"name models and how they are scored: {QUERY}")
    queries = [query(text) for text in arguments.models]
    _check(queries, arguments)
    output, options, device = arguments.output, arguments.work.options(), arguments.work.torch_device
    model_arguments.check_outputs(output.json, output.csv)
    datasets = [scored_dataset(spec) for spec in arguments.data]
    # Every model is there, and can be scored so, before the first is.
    ready = {}
    for each in queries:
        model = trained(each.weights).to(device)
        ready[each.label] = model, arguments.mahalanobis.scorers(model, each.scorers)
    images = sum(len(range(len(each))[: options["limit"]]) for each in datasets)
    found: dict[str, list[Detection]] = {}
    corrupt: dict[str, str] = {}
    with progress_bar("images", images * len(ready)) as progress:
        for label, (model, scorers) in ready.items():
            advance = advanced_by(progress, images)
            found[label], evaluation = detect(model, datasets, scorers, device=device, progress=advance, **options)
            corrupt |= evaluation.corrupt
    # First of all: a file that cannot be written must not take the scores along.
    table(found).show()
    limit = options["limit"]
    print(f"\n{', '.join(f'{each.domain}: {_images(each, limit)}' for each in datasets)}")
    if bare := dict.fromkeys(row.dataset for rows in found.values() for row in rows if math.isnan(row.ap)):
        print(f"\n{', '.join(bare)}: no pixel of an unknown object (the streets world has some with unknown=true)")
    if corrupt:
        print(f"\n{len(corrupt)} images could not be read and are in no score:")
        for sample, reason in list(corrupt.items())[:10]:
            print(f"  {sample}: {reason}")
    for path, text in ((output.json, _json), (output.csv, _csv)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(queries, found), encoding="utf-8")
    return 1 if corrupt else 0


def _images(dataset: Dataset, limit: int | None) -> str:
    count = len(dataset)
    return f"{count} images" if limit is None or limit >= count else f"{limit} of {count} images"


def _check(queries: Sequence[ModelQuery], arguments: Arguments) -> None:
    labels, fit = [each.label for each in queries], arguments.mahalanobis.fit
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"two models are called {twice[0]!r}: write LABEL=WEIGHTS:SCORER")
    for each in queries:
        if not each.weights.is_file():
            raise ValueError(f"there is no weights file at {each.weights}")
        if "mahalanobis" in each.scorers and fit is None:
            raise ValueError("mahalanobis is fitted to labelled training images: name them with --fit")
    for spec in arguments.data:
        if fit is not None and _location(spec) == _location(fit):
            raise ValueError(f"--fit {fit} is what is scored: fit to what the model was trained on")


def _location(spec: str) -> tuple[str, str, str | None]:
    """Images lie there, whatever the options choose or change of them."""
    parsed = parse_spec(spec)
    return parsed.name, parsed.path, parsed.split


def _json(queries: Sequence[ModelQuery], found: Mapping[str, Sequence[Detection]]) -> str:
    rows = [
        {"model": each.label, "weights": str(each.weights)}
        | {name: finite(value) if isinstance(value, float) else value for name, value in asdict(row).items()}
        for each in queries
        for row in found[each.label]
    ]
    return json.dumps(rows, indent=1) + "\n"


def _csv(queries: Sequence[ModelQuery], found: Mapping[str, Sequence[Detection]]) -> str:
    head = ["model", "weights", *(field.name for field in fields(Detection))]
    rows = [(each.label, str(each.weights), *astuple(row)) for each in queries for row in found[each.label]]
    return csv_text(head, rows)
