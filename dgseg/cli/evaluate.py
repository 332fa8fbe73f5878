"""dgseg evaluate: official scores per domain, and where the model fails."""

import argparse
import importlib.util
import json
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from dgseg import __version__
from dgseg.cli import model_arguments
from dgseg.data.dataset import Dataset
from dgseg.evaluation import SYNTHIA_16, Evaluation, evaluate, protocol_named
from dgseg.evaluation.counting import domains
from dgseg.evaluation.evaluate import EXTRAS, check
from dgseg.evaluation.loading import scored_dataset
from dgseg.evaluation.pictures import Example
from dgseg.evaluation.protocols import NAMES
from dgseg.evaluation.tables import as_csv, tables
from dgseg.models.base import SegmentationModel
from dgseg.training.ranks import run_ranks
from dgseg.training.world import World, join

DESCRIPTION = textwrap.fill(
    "Scores a model on any number of data sets: mIoU, IoU of every class, mAcc and pixel accuracy per domain, of ACDC "
    "per condition, and the papers' averages where their data sets are there. An image that cannot be read is named "
    "and skipped; the exit status is then 1.",
    100,
)
EPILOG = """examples:
  dgseg evaluate --weights flexseg.safetensors --data streets=fog streets=night --html report.html
  dgseg evaluate --weights latest.pth --model hrda_mitb5 --protocol paper \\
    --data cityscapes=/data/cityscapes acdc=/data/acdc dark_zurich=/data/dark_zurich
  torchrun --nproc-per-node 4 -m dgseg evaluate --weights …"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    model_arguments.add_weights_arguments(parser)
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        required=True,
        metavar="SPEC",
        help="name=path[@split][,option=value]; without a split the one that is scored: val, or streets' test",
    )
    parser.add_argument(
        "--protocol",
        choices=NAMES,
        default="native",
        help="how images are shown: whole at their own size (native, streets), or as in FLEX-Seg's tables (paper: by "
        "the model's name), or Cityscapes at 512x1024 (realtime); default: native",
    )
    parser.add_argument(
        "--classes", choices=["all", "synthia16"], default="all", help="synthia16: without terrain, truck and train"
    )
    parser.add_argument(
        "--also",
        nargs="*",
        choices=EXTRAS,
        help="what else to count: errors by distance to boundaries, calibration, out-of-distribution scores of pixels "
        "and, in a second pass, of components, each image's pixels (default: boundary and calibration for a report; "
        "ood and components for data sets that mark it)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, in fractions")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="a row per domain, in fractions")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page that holds everything, pictures included")
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="images shown per domain, from worst to best (default: 3 in a report)"
    )
    parser.add_argument("--panels", type=Path, metavar="FOLDER", help="write those pictures there, a PNG per domain")
    parser.add_argument("--no-mlflow", action="store_true", help="keep no MLflow run, where MLflow is installed")
    parser.add_argument("--experiment", default="dgseg-evaluate", help="of MLflow (default: dgseg-evaluate)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: auto)")
    parser.add_argument(
        "--precision", choices=list(model_arguments.PRECISIONS), default="float32", help="(default: float32)"
    )
    parser.add_argument("--batch", type=int, default=4, help="images, or windows, at once (default: 4)")
    parser.add_argument("--workers", type=int, default=2, help="loading processes per process (default: 2)")
    parser.add_argument("--processes", type=int, default=1, help="that share the images on this machine (default: 1)")


def main(arguments: argparse.Namespace) -> int:
    if arguments.pictures is None:
        arguments.pictures = 3 if arguments.html or arguments.panels else 0
    if arguments.pictures < 0 or arguments.processes < 1:
        raise ValueError("--pictures must be at least 0 and --processes at least 1")
    if arguments.pictures and not (arguments.html or arguments.panels):
        raise ValueError("--pictures goes into a report (--html FILE) or a folder (--panels FOLDER): name one")
    if not arguments.weights.is_file():
        raise ValueError(f"there is no weights file at {arguments.weights}")
    model_arguments.check_outputs(arguments.json, arguments.csv, arguments.html, folders=[arguments.panels])
    if arguments.processes == 1:
        return _evaluate(arguments)
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a launcher has started several processes already; leave --processes out")
    threads = max(1, torch.get_num_threads() // arguments.processes)
    return run_ranks(_evaluate, arguments, ranks=arguments.processes, threads=threads, device=arguments.device)


def _evaluate(arguments: argparse.Namespace) -> int:
    """In every process; the first one reports."""
    joined = dist.is_initialized()
    try:
        world = join(arguments.device)
        model, datasets, found = _score(arguments, world)
        if world.first:
            _report(arguments, model, datasets, found, world.device)
        return 1 if world.first and found.corrupt else 0
    finally:
        if dist.is_initialized() and not joined:
            dist.destroy_process_group()


def _score(arguments: argparse.Namespace, world: World) -> tuple[SegmentationModel, list[Dataset], Evaluation]:
    datasets = [scored_dataset(spec) for spec in arguments.data]
    extras = _extras(arguments, datasets)
    model = model_arguments.from_weights(arguments).to(memory_format=torch.channels_last)
    model = model.to(world.device)
    protocol = protocol_named(arguments.protocol, model.architecture)
    check(datasets, protocol, batch_size=arguments.batch, workers=arguments.workers, extras=extras)
    with _progress(sum(map(len, datasets)), world.first) as progress:
        found = evaluate(
            model,
            datasets,
            protocol,
            batch_size=arguments.batch,
            workers=arguments.workers,
            device=world.device,
            group=world.group,
            extras=extras,
            classes=SYNTHIA_16 if arguments.classes == "synthia16" else None,
            autocast=model_arguments.PRECISIONS[arguments.precision],
            progress=progress,
        )
    return model, datasets, found


def _extras(arguments: argparse.Namespace, datasets: Sequence[Dataset]) -> set[str]:
    extras = set(arguments.also or ())
    if arguments.also is None:
        if any(dataset.unknown for dataset in datasets):
            extras |= {"ood", "components"}
        if arguments.html:
            extras |= {"boundary", "calibration"}
    return extras | {"images"} if arguments.pictures else extras


@contextmanager
def _progress(images: int, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    if not shown or importlib.util.find_spec("rich") is None:
        yield None
        return
    from dgseg.cli.data.progress import progress_bar

    with progress_bar("images", images) as advance:
        so_far = 0

        def heard(done: int, of: int) -> None:
            # Of this process's share: the others are taken to be as far.
            nonlocal so_far
            now = images * done // of
            advance(now - so_far)
            so_far = now

        yield heard


def _report(
    arguments: argparse.Namespace,
    model: SegmentationModel,
    datasets: Sequence[Dataset],
    found: Evaluation,
    device: torch.device,
) -> None:
    print(f"{arguments.weights.name}: {model.architecture}")
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
        "weights": str(arguments.weights),
        "model": model.architecture,
        "data": list(arguments.data),
        "precision": arguments.precision,
        "classes": arguments.classes,
        "dgseg": __version__,
    }
    if arguments.json:
        content = facts | found.as_dict(per_image="images" in (arguments.also or ()))
        _write(arguments.json, json.dumps(content, indent=1) + "\n")
    if arguments.csv:
        _write(arguments.csv, as_csv(found))
    examples = _examples(arguments, model, datasets, found, device)
    if arguments.panels:
        from dgseg.evaluation.pictures import panel

        for domain, shown in examples.items():
            path = arguments.panels / f"{domain.replace('/', '-')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            panel(shown).save(path)
        print(f"wrote {len(examples)} panels to {arguments.panels}")
    if arguments.html:
        from dgseg.evaluation.page import page

        _write(arguments.html, page(arguments.weights.name, found, facts, examples))
    if not arguments.no_mlflow and importlib.util.find_spec("mlflow") is not None:
        from dgseg.cli.evaluation_run import keep

        print(keep(found, facts, arguments.experiment, arguments.html))


def _examples(
    arguments: argparse.Namespace,
    model: SegmentationModel,
    datasets: Sequence[Dataset],
    found: Evaluation,
    device: torch.device,
) -> dict[str, list[Example]]:
    """domain -> its pictures; a data set's conditions have them, their sum none."""
    if not arguments.pictures:
        return {}
    from dgseg.evaluation.gallery import examples, spread

    shown = {}
    for dataset in datasets:
        for domain in domains(dataset):
            chosen = spread(found.domains[domain], arguments.pictures)
            if chosen:
                shown[domain] = examples(model, dataset, chosen, found.protocol, device=device)
    return shown


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
