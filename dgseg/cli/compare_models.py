"""dgseg compare-models: is B better than A, or is it noise, and where do they differ?"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from dgseg import __version__
from dgseg.cli import model_arguments
from dgseg.cli.arguments import File, OmitArgPrefixes, ProtocolName, Specs, TwoWeights, Work, arg
from dgseg.cli.data.progress import advanced_by, progress_bar
from dgseg.data.dataset import Dataset
from dgseg.evaluation import Evaluation, evaluate, protocol_named
from dgseg.evaluation.bootstrap import ALL
from dgseg.evaluation.comparison import (
    EXTRAS,
    Comparison,
    boundary_table,
    compare,
    scores_table,
    side_by_side,
)
from dgseg.evaluation.evaluate import check
from dgseg.evaluation.loading import scored_dataset
from dgseg.evaluation.pictures import Example
from dgseg.models.base import SegmentationModel

DESCRIPTION = (
    "Scores two models on the same images and says per domain whether B is better than A beyond noise: a paired "
    "bootstrap resamples the images, thousands of times, and where the interval of the difference holds 0 nothing may "
    "be claimed. Also errors by distance to class boundaries, and the images in which the two differ most, side by "
    "side. An image that cannot be read is named and skipped; the exit status is then 1."
)
EXAMPLES = """\
  dgseg compare-models runs/erm/weights.safetensors runs/flexseg/weights.safetensors --data streets=fog streets=night
  dgseg compare-models a.safetensors b.pth --model-b segformer_b0 --data cityscapes=/data/cityscapes --html ab.html"""


@dataclass(frozen=True)
class Output:
    """What is written."""

    out: Annotated[Path | None, arg(metavar="FOLDER", aliases=["-o"])] = None
    """comparison.json and .csv (in fractions), the plots, and a panel of pictures per domain."""
    html: File = None
    """A page that holds everything, pictures included."""
    pictures: Annotated[int, arg(metavar="N")] = 2
    """Per domain: the images in which B gains most over A, and as many in which it loses most."""


@dataclass(frozen=True)
class Bootstrap:
    """How noise is told from a difference."""

    resamples: Annotated[int, arg(metavar="N")] = 10_000
    confidence: float = 0.95
    """Of the interval."""
    seed: int = 0
    """Of the resampling."""


@dataclass(frozen=True)
class Arguments:
    models: OmitArgPrefixes[TwoWeights]
    data: Specs
    """name=path[@split][,option=value]; without a split the one that is scored: val, or streets' test."""
    bootstrap: OmitArgPrefixes[Bootstrap]
    work: OmitArgPrefixes[Work]
    output: OmitArgPrefixes[Output]
    protocol: ProtocolName = "native"


def main(arguments: Arguments) -> int:
    _check(arguments)
    output = arguments.output
    model_arguments.check_outputs(output.html, folders=[output.out])
    datasets = [scored_dataset(spec) for spec in arguments.data]
    if any(dataset.domain == ALL for dataset in datasets):
        raise ValueError(f"{ALL} is what the mean over domains is called: give that folder another name (domain=…)")
    device = arguments.work.torch_device
    models = arguments.models.load(device)
    a, b = _evaluations(arguments, models, datasets, device)
    found = compare(a, b, **vars(arguments.bootstrap))
    names, how = arguments.models.describe(models), _how(arguments.bootstrap, found)
    for name, what in names.items():
        print(f"{name}: {what}")
    print(how)
    for table in (scores_table(found), boundary_table(found)):
        print()
        table.show()
    for name in a.domains:
        if name not in found.differences:
            print(f"{name}: no image has a labelled pixel, there is nothing to compare")
    for sample, reason in a.corrupt.items():
        print(f"could not be read and is in no score: {sample}: {reason}")
    shown = {}
    if output.pictures and (output.out or output.html):
        shown = side_by_side(models, datasets, found, output.pictures, device)
    if output.out:
        _write_folder(output.out, found, names, how, shown)
    if output.html:
        from dgseg.evaluation.comparison_page import comparison_page

        output.html.parent.mkdir(parents=True, exist_ok=True)
        output.html.write_text(comparison_page(found, names, how, shown), encoding="utf-8")
        print(f"wrote {output.html}")
    return 1 if a.corrupt else 0


def _check(arguments: Arguments) -> None:
    """What can be refused before an hour of scoring."""
    bootstrap = arguments.bootstrap
    if arguments.models.b is None:
        raise ValueError("name the weights of two models, A and B")
    if bootstrap.resamples < 1 or not 0 < bootstrap.confidence < 1 or bootstrap.seed < 0:
        raise ValueError("--resamples must be at least 1, --confidence between 0 and 1, --seed at least 0")
    if arguments.output.pictures < 0:
        raise ValueError("--pictures must be at least 0")


def _evaluations(
    arguments: Arguments,
    models: Mapping[str, SegmentationModel],
    datasets: Sequence[Dataset],
    device: torch.device,
) -> list[Evaluation]:
    options = arguments.work.options()
    protocols = [protocol_named(arguments.protocol, model.architecture) for model in models.values()]
    for protocol in protocols:
        check(
            datasets,
            protocol,
            batch_size=options["batch_size"],
            workers=options["workers"],
            extras=EXTRAS,
        )
    images = sum(len(range(len(each))[: options["limit"]]) for each in datasets)
    with progress_bar("images", len(models) * images) as progress:
        return [
            evaluate(
                model,
                datasets,
                protocol,
                device=device,
                extras=EXTRAS,
                progress=advanced_by(progress, images),
                **options,
            )
            for model, protocol in zip(models.values(), protocols, strict=True)
        ]


def _how(bootstrap: Bootstrap, found: Comparison) -> str:
    protocols = dict.fromkeys((found.a.describe(), found.b.describe()))
    said = [next(iter(protocols))] if len(protocols) == 1 else [f"A: {found.a.describe()}", f"B: {found.b.describe()}"]
    first = next(iter(found.differences.values()))
    method = (
        f"Paired bootstrap over images, {bootstrap.resamples:,} resamplings, seed {bootstrap.seed}: "
        f"{100 * first.confidence:g} % interval of the difference, and a two-sided p. It knows the noise of which "
        "images were scored, not that of training again with another seed."
    )
    said.append(textwrap.fill(method, 118, subsequent_indent="  "))
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
