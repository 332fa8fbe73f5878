"""dgseg compare-models: is B better than A, or is it noise, and where do they differ?"""

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dgseg import __version__
from dgseg.cli import model_arguments, two_models
from dgseg.cli.data.progress import advanced_by, progress_bar
from dgseg.data.dataset import Dataset
from dgseg.evaluation import Evaluation, evaluate, protocol_named
from dgseg.evaluation.bootstrap import ALL
from dgseg.evaluation.comparison import (
    EXTRAS,
    RULE,
    Comparison,
    boundary_table,
    compare,
    scores_table,
    side_by_side,
)
from dgseg.evaluation.evaluate import check
from dgseg.evaluation.loading import scored_dataset
from dgseg.evaluation.pictures import Example
from dgseg.evaluation.protocols import NAMES
from dgseg.models.base import SegmentationModel

DESCRIPTION = (
    "Scores two models on the same images and says per domain whether B is better than A beyond noise: a paired "
    "bootstrap resamples the images, thousands of times, and where the interval of the difference holds 0 nothing may "
    "be claimed. Also errors by distance to class boundaries, and the images in which the two differ most, side by "
    "side. An image that cannot be read is named and skipped; the exit status is then 1."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    two_models.add_arguments(parser, b="required")
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        required=True,
        metavar="SPEC",
        help="name=path[@split][,option=value]; without a split the one that is scored: val, or streets' test",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write comparison.json and .csv there (in fractions), the plots, and a panel of pictures per domain",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page that holds everything, pictures included")
    parser.add_argument("--pictures", type=int, default=2, metavar="N", help=f"{RULE} N of each (default: 2)")
    parser.add_argument(
        "--protocol",
        choices=NAMES,
        default="native",
        help="how images are shown: whole at their own size (native, streets), or as in FLEX-Seg's tables (paper: by "
        "each model's name), or Cityscapes at 512x1024 (realtime); default: native",
    )
    parser.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap (default: 10000)")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the interval (default: 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    parser.add_argument("--precision", choices=list(model_arguments.PRECISIONS), default="float32", help="(float32)")
    parser.add_argument("--batch", type=int, default=4, help="images, or windows, at once (default: 4)")
    parser.add_argument("--workers", type=int, default=2, help="processes that load (default: 2)")


def main(arguments: argparse.Namespace) -> int:
    _check(arguments)
    model_arguments.check_outputs(arguments.html, folders=[arguments.out])
    datasets = [scored_dataset(spec) for spec in arguments.data]
    if any(dataset.domain == ALL for dataset in datasets):
        raise ValueError(f"{ALL} is what the mean over domains is called: give that folder another name (domain=…)")
    device = model_arguments.torch_device(arguments.device)
    models = two_models.loaded(arguments, device)
    a, b = _evaluations(arguments, models, datasets, device)
    found = compare(a, b, resamples=arguments.resamples, confidence=arguments.confidence, seed=arguments.seed)
    names, how = two_models.described(arguments, models), _how(arguments, found)
    for name, what in names.items():
        print(f"{name}: {what}")
    print(how)
    print("\n".join(f"\n{table.text()}" for table in (scores_table(found), boundary_table(found))))
    for name in a.domains:
        if name not in found.differences:
            print(f"{name}: no image has a labelled pixel, there is nothing to compare")
    for sample, reason in a.corrupt.items():
        print(f"could not be read and is in no score: {sample}: {reason}")
    shown = {}
    if arguments.pictures and (arguments.out or arguments.html):
        shown = side_by_side(models, datasets, found, arguments.pictures, device)
    if arguments.out:
        _write_folder(arguments.out, found, names, how, shown)
    if arguments.html:
        from dgseg.evaluation.comparison_page import comparison_page

        arguments.html.parent.mkdir(parents=True, exist_ok=True)
        arguments.html.write_text(comparison_page(found, names, how, shown), encoding="utf-8")
        print(f"wrote {arguments.html}")
    return 1 if a.corrupt else 0


def _check(arguments: argparse.Namespace) -> None:
    """What can be refused before an hour of scoring."""
    if arguments.resamples < 1 or not 0 < arguments.confidence < 1 or arguments.seed < 0:
        raise ValueError("--resamples must be at least 1, --confidence between 0 and 1, --seed at least 0")
    if arguments.pictures < 0:
        raise ValueError("--pictures must be at least 0")


def _evaluations(
    arguments: argparse.Namespace,
    models: Mapping[str, SegmentationModel],
    datasets: Sequence[Dataset],
    device: torch.device,
) -> list[Evaluation]:
    protocols = [protocol_named(arguments.protocol, model.architecture) for model in models.values()]
    for protocol in protocols:
        check(datasets, protocol, batch_size=arguments.batch, workers=arguments.workers, extras=EXTRAS)
    found = []
    with progress_bar("images", len(models) * sum(map(len, datasets))) as progress:
        for model, protocol in zip(models.values(), protocols, strict=True):
            found.append(
                evaluate(
                    model,
                    datasets,
                    protocol,
                    batch_size=arguments.batch,
                    workers=arguments.workers,
                    device=device,
                    extras=EXTRAS,
                    autocast=model_arguments.PRECISIONS[arguments.precision],
                    progress=advanced_by(progress),
                )
            )
    return found


def _how(arguments: argparse.Namespace, found: Comparison) -> str:
    protocols = dict.fromkeys((found.a.describe(), found.b.describe()))
    said = [next(iter(protocols))] if len(protocols) == 1 else [f"A: {found.a.describe()}", f"B: {found.b.describe()}"]
    first = next(iter(found.differences.values()))
    bootstrap = (
        f"Paired bootstrap over images, {arguments.resamples:,} resamplings, seed {arguments.seed}: "
        f"{100 * first.confidence:g} % interval of the difference, and a two-sided p. It knows the noise of which "
        "images were scored, not that of training again with another seed."
    )
    said.append(textwrap.fill(bootstrap, 118, subsequent_indent="  "))
    return "\n".join(said)


def _write_folder(
    out: Path, found: Comparison, names: Mapping[str, str], how: str, shown: Mapping[str, Sequence[Example]]
) -> None:
    from dgseg.evaluation import charts
    from dgseg.evaluation.pictures import panel

    out.mkdir(parents=True, exist_ok=True)
    content = {"models": names, "how": how, "dgseg": __version__, "domains": found.as_dict()}
    (out / "comparison.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "comparison.csv").write_text(found.as_csv(), encoding="utf-8")
    charts.differences(found.differences, found.better).savefig(out / "differences.png", dpi=150)
    if boundaries := found.boundaries():
        charts.boundary_comparison(boundaries).savefig(out / "boundary-errors.png", dpi=150)
    for domain, some in shown.items():
        panel(some).save(out / f"panel-{domain.replace('/', '-')}.png")
    print(f"wrote {out}: comparison.json, comparison.csv, plots and {len(shown)} panels")
