"""dgseg evaluate: official scores per domain, and where the model fails."""

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import torch
import torch.distributed as dist

from dgseg import __version__
from dgseg.cli import model_arguments
from dgseg.cli.arguments import (
    Count,
    File,
    Folder,
    OmitArgPrefixes,
    ProtocolName,
    Specs,
    Weights,
    Work,
    arg,
    described,
    run_name,
)
from dgseg.cli.data.progress import advanced_by, progress_bar
from dgseg.data.dataset import Dataset
from dgseg.evaluation import SYNTHIA_16, Evaluation, evaluate, protocol_named
from dgseg.evaluation.counting import domains
from dgseg.evaluation.evaluate import check
from dgseg.evaluation.loading import scored_dataset
from dgseg.evaluation.pictures import Example
from dgseg.evaluation.scorers import Scorer, scorers_of
from dgseg.evaluation.tables import as_csv, tables
from dgseg.models.base import SegmentationModel
from dgseg.training.ranks import run_ranks
from dgseg.training.world import World, join

DESCRIPTION = (
    "Scores a model on any number of data sets: mIoU, IoU of every class, mAcc and pixel accuracy per domain, of ACDC "
    "per condition, and the papers' averages where their data sets are there. An image that cannot be read is named "
    "and skipped; the exit status is then 1."
)
EXAMPLES = """\
  dgseg evaluate --weights flexseg.safetensors --data streets=fog streets=night --html report.html
  dgseg evaluate --weights latest.pth --model hrda_mitb5 --protocol paper \\
    --data cityscapes=/data/cityscapes acdc=/data/acdc dark_zurich=/data/dark_zurich
  dgseg evaluate --weights w.safetensors --data smiyc_ra21=/data/RA21 --scorers energy odin
  torchrun --nproc-per-node 4 -m dgseg evaluate --weights …"""

Device = Literal["auto", "cpu", "cuda"]
Extra = Literal["boundary", "calibration", "ood", "components", "images"]
ALSO = (
    "What else to count: errors by distance to boundaries, calibration, how well pixels of no class are found and, in "
    "a second pass, components of them, each image's pixels (default: boundary and calibration for a report; ood and "
    "components for data sets that mark unknown objects)."
)
HOW = (
    "How unknown pixels are found; implies ood and components (default: max_softmax, entropy, energy, and learned "
    "where the model has a head for it)."
)
ScorerName = Literal["max_softmax", "entropy", "energy", "max_logit", "odin", "learned", "mahalanobis"]


@dataclass(frozen=True)
class Fit:
    """What mahalanobis is fitted to."""

    fit: Annotated[str | None, arg(metavar="SPEC", help_behavior_hint="")] = None
    """Labelled training images."""
    fit_images: Annotated[int, arg(metavar="N")] = 100
    """At most this many of them, evenly spread."""

    def scorers(self, model: SegmentationModel, names: Sequence[str]) -> dict[str, Scorer]:
        if self.fit_images < 1:
            raise ValueError("--fit-images must be at least 1")
        training = scored_dataset(self.fit) if self.fit is not None and "mahalanobis" in names else None
        return scorers_of(model, names, training, self.fit_images)


@dataclass(frozen=True)
class Output:
    """What is written."""

    json: File = None
    """Everything, in fractions."""
    csv: File = None
    """A row per domain, in fractions."""
    html: File = None
    """A page that holds everything, pictures included."""
    panels: Folder = None
    """The pictures, a PNG per domain."""
    pictures: Count = None
    """Images shown per domain, from worst to best (default: 3 in a report)."""
    mlflow: bool = True
    """Keep the scores as an MLflow run, where MLflow is installed."""
    experiment: Annotated[str, arg(metavar="NAME")] = "dgseg-evaluate"
    """Of MLflow."""

    @property
    def shown(self) -> int:
        """Pictures per domain."""
        return (3 if self.html or self.panels else 0) if self.pictures is None else self.pictures


@dataclass(frozen=True)
class Arguments:
    model: OmitArgPrefixes[Weights]
    data: Specs
    """name=path[@split][,option=value]; without a split the one that is scored: val, or streets' test."""
    work: OmitArgPrefixes[Work]
    output: OmitArgPrefixes[Output]
    mahalanobis: OmitArgPrefixes[Fit]
    protocol: ProtocolName = "native"
    classes: Literal["all", "synthia16"] = "all"
    """synthia16: without terrain, truck and train."""
    also: Annotated[tuple[Extra, ...] | None, described(ALSO, f"{{{','.join(get_args(Extra))}}}…")] = None
    scorers: Annotated[tuple[ScorerName, ...] | None, described(HOW, f"{{{','.join(get_args(ScorerName))}}}…")] = None
    jobs: Annotated[int, arg(metavar="N")] = 1
    """Processes of this machine that share the images."""


def main(arguments: Arguments) -> int:
    output = arguments.output
    if output.shown < 0 or arguments.jobs < 1:
        raise ValueError("--pictures must be at least 0 and --jobs at least 1")
    if output.pictures and not (output.html or output.panels):
        raise ValueError("--pictures goes into a report (--html FILE) or a folder (--panels FOLDER): name one")
    if not arguments.model.weights.is_file():
        raise ValueError(f"there is no weights file at {arguments.model.weights}")
    model_arguments.check_outputs(output.json, output.csv, output.html, folders=[output.panels])
    if arguments.work.device not in get_args(Device):
        raise ValueError(f"--device {arguments.work.device}: give auto, cpu or cuda; processes take the GPUs in turn")
    if arguments.jobs == 1:
        return _evaluate(arguments)
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a launcher has started several processes already; leave --jobs out")
    threads = max(1, torch.get_num_threads() // arguments.jobs)
    return run_ranks(_evaluate, arguments, ranks=arguments.jobs, threads=threads, device=arguments.work.device)


def _evaluate(arguments: Arguments) -> int:
    """In every process; the first one reports."""
    joined = dist.is_initialized()
    try:
        world = join(cast(Device, arguments.work.device))
        model, datasets, found = _score(arguments, world)
        if world.first:
            _report(arguments, model, datasets, found, world.device)
        return 1 if world.first and found.corrupt else 0
    finally:
        if dist.is_initialized() and not joined:
            dist.destroy_process_group()


def _score(arguments: Arguments, world: World) -> tuple[SegmentationModel, list[Dataset], Evaluation]:
    datasets = [scored_dataset(spec) for spec in arguments.data]
    extras, options = _extras(arguments, datasets), arguments.work.options()
    model = arguments.model.load(world.device).to(memory_format=torch.channels_last)
    protocol = protocol_named(arguments.protocol, model.architecture)
    scorers = None if arguments.scorers is None else arguments.mahalanobis.scorers(model, arguments.scorers)
    check(
        datasets,
        protocol,
        batch_size=options["batch_size"],
        workers=options["workers"],
        extras=extras,
        scorers=scorers or {},
    )
    with _progress(sum(len(range(len(each))[: options["limit"]]) for each in datasets), world.first) as progress:
        found = evaluate(
            model,
            datasets,
            protocol,
            device=world.device,
            group=world.group,
            extras=extras,
            classes=SYNTHIA_16 if arguments.classes == "synthia16" else None,
            progress=progress,
            scorers=scorers,
            **options,
        )
    return model, datasets, found


def _extras(arguments: Arguments, datasets: Sequence[Dataset]) -> set[str]:
    extras: set[str] = set(arguments.also or ())
    if arguments.also is None:
        if any(dataset.unknown for dataset in datasets):
            extras |= {"ood", "components"}
        if arguments.output.html:
            extras |= {"boundary", "calibration"}
    if arguments.scorers is not None:
        extras |= {"ood", "components"}
    return extras | {"images"} if arguments.output.shown else extras


@contextmanager
def _progress(images: int, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    if not shown:
        yield None
        return
    with progress_bar("images", images) as advance:
        # Of this process's share: the others are taken to be as far.
        yield advanced_by(advance, images)


def _report(
    arguments: Arguments,
    model: SegmentationModel,
    datasets: Sequence[Dataset],
    found: Evaluation,
    device: torch.device,
) -> None:
    output, weights = arguments.output, arguments.model.weights
    print(f"{run_name(weights)}: {model.architecture}")
    print(found.describe())
    for table in tables(found):
        print()
        table.show()
    print(f"\n{found.images:,} images, {found.images_per_second:.1f} a second")
    if found.corrupt:
        print(f"\n{len(found.corrupt)} images could not be read and are in no score:")
        for sample, reason in list(found.corrupt.items())[:10]:
            print(f"  {sample}: {reason}")
    facts = {
        "weights": str(weights),
        "model": model.architecture,
        "data": list(arguments.data),
        "precision": arguments.work.precision,
        "classes": arguments.classes,
        "dgseg": __version__,
    }
    if output.json:
        content = facts | found.as_dict(per_image="images" in (arguments.also or ()))
        _write(output.json, json.dumps(content, indent=1) + "\n")
    if output.csv:
        _write(output.csv, as_csv(found))
    examples = _examples(output.shown, model, datasets, found, device)
    if output.panels:
        from dgseg.evaluation.pictures import panel

        for domain, shown in examples.items():
            path = output.panels / f"{domain.replace('/', '-')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            panel(shown).save(path)
        print(f"wrote {len(examples)} panels to {output.panels}")
    if output.html:
        from dgseg.evaluation.page import page

        _write(output.html, page(run_name(weights), found, facts, examples))
    if output.mlflow and importlib.util.find_spec("mlflow") is not None:
        from dgseg.cli.evaluation_run import keep

        print(keep(found, facts, output.experiment, output.html))


def _examples(
    count: int, model: SegmentationModel, datasets: Sequence[Dataset], found: Evaluation, device: torch.device
) -> dict[str, list[Example]]:
    """domain -> its pictures; a data set's conditions have them, their sum none."""
    if not count:
        return {}
    from dgseg.evaluation.gallery import examples, spread

    shown = {}
    for dataset in datasets:
        for domain in domains(dataset):
            chosen = spread(found.domains[domain], count) if domain in found.domains else []
            if chosen:
                shown[domain] = examples(model, dataset, chosen, found.protocol, device=device)
    return shown


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
