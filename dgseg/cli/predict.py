"""dgseg predict: what a model sees in images of one's own."""

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import cast

import torch

from dgseg.cli import model_arguments
from dgseg.cli.data.progress import progress_bar
from dgseg.data.dataset import CorruptFile
from dgseg.data.labels import CLASSES
from dgseg.evaluation.pictures import class_legend
from dgseg.evaluation.prediction_files import KINDS, Kind, Outcome, Plan, Settings, check, plan, predict_files
from dgseg.models.base import SegmentationModel

DESCRIPTION = (
    "Writes what a model sees in images: OUT/labels/ has a PNG of class ids for every image, OUT/overlays/ the image "
    "tinted in the classes' colours, which OUT/legend.png explains. Folders are searched at any depth, frame2 before "
    "frame10, and keep their structure. Any size, upright as EXIF says; grey, palette, CMYK, 16 bits and alpha are "
    "taken, of an animation the first picture. A file that cannot be read is named and skipped; the exit status is 1 "
    "then, and 2 if nothing could be begun."
)


RESUME = "the same command with --existing skip resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Settings()
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IMAGE|FOLDER", help="images, or folders of them")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="made if it is not there")
    model_arguments.add_weights_arguments(parser)
    parser.add_argument(
        "--write",
        default=",".join(default.kinds),
        metavar="KINDS",
        help=f"what, with commas between: {', '.join(KINDS)} (default: {','.join(default.kinds)}). confidence and "
        "entropy are grey PNGs: 255 times the probability of the predicted class, and 255 times the entropy of the "
        "prediction over its largest value. probabilities are .npz files: uint8 [C, H, W], 255 times each",
    )
    parser.add_argument(
        "--ids",
        choices=["train", "cityscapes"],
        default="train",
        help="what labels hold: train ids 0 to 18 (default), or Cityscapes' own 34, as its server takes them",
    )
    parser.add_argument(
        "--existing",
        choices=["refuse", "skip", "replace"],
        default="refuse",
        help="outputs that are there: refuse to begin (default), skip their images, which goes on where a run was "
        "stopped, or replace them",
    )
    parser.add_argument(
        "--window",
        type=int,
        default=default.window,
        metavar="SIDE",
        help=f"longer sides are covered by overlapping windows of this many pixels, their logits averaged (default: "
        f"{default.window}); 0: the whole image at once, however large",
    )
    parser.add_argument("--stride", type=int, metavar="PX", help="between windows (default: half a window)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="windows at once (default: 1)")
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--precision", choices=list(model_arguments.PRECISIONS), default="float32", help="(default: float32)"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile: pays for many images of one size")
    parser.add_argument(
        "--threads",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="that read and write files beside the model (default: one per core, at most 8)",
    )


def main(arguments: argparse.Namespace) -> int:
    settings = Settings(
        kinds=cast("tuple[Kind, ...]", tuple(dict.fromkeys(filter(None, arguments.write.split(","))))),
        ids=arguments.ids,
        window=arguments.window or None,
        stride=arguments.stride,
        windows_per_batch=arguments.batch,
        autocast=model_arguments.PRECISIONS[arguments.precision],
    )
    try:
        _check(arguments, settings)
        work = plan(arguments.inputs, arguments.out, settings.kinds, arguments.existing)
        if not work.jobs:
            print(f"nothing to do: {_images(work.skipped)} of {_images(work.skipped)} are there already")
            return 0
        device = model_arguments.torch_device(arguments.device)
        model = model_arguments.from_weights(arguments).to(device)
        check(settings, model.num_classes)
        arguments.out.mkdir(parents=True, exist_ok=True)
        if "overlays" in settings.kinds:
            class_legend(classes=CLASSES[: model.num_classes]).save(arguments.out / "legend.png")
    except (ValueError, OSError) as error:
        print(f"dgseg predict: {error}", file=sys.stderr)
        return 2
    if arguments.compile:
        model.compile()
    outcome = _run(model, work, arguments, settings)
    print(_summary(outcome, work, arguments.out, settings))
    return 1 if outcome.broken else 0


def _check(arguments: argparse.Namespace, settings: Settings) -> None:
    check(settings, arguments.num_classes)
    if arguments.window < 0 or min(arguments.batch, arguments.threads) < 1:
        raise ValueError("--window must be at least 0, --batch and --threads at least 1")
    if arguments.stride is not None and not 1 <= arguments.stride <= arguments.window:
        raise ValueError("--stride must be at least 1 and at most --window: windows may leave no gaps")


def _run(model: SegmentationModel, work: Plan, arguments: argparse.Namespace, settings: Settings) -> Outcome:
    with warnings.catch_warnings(), progress_bar("predicting", len(work.jobs)) as progress:
        warnings.filterwarnings("ignore", module="PIL")  # on oddities of files that are read all the same
        try:
            return predict_files(
                model,
                work.jobs,
                arguments.out,
                settings,
                threads=arguments.threads,
                complain=_complain,
                progress=progress,
            )
        except torch.OutOfMemoryError as error:
            remedy = "try a smaller --window, --batch 1 or --precision bf16"
            raise SystemExit(f"dgseg predict: {error}\n{remedy}") from error


def _complain(broken: CorruptFile) -> None:
    print(f"dgseg predict: skipped {broken}", file=sys.stderr)


def _summary(outcome: Outcome, work: Plan, out: Path, settings: Settings) -> str:
    speed = f" in {outcome.seconds:.1f} s, {outcome.done / outcome.seconds:.3g} images/s" if outcome.done else ""
    lines = [f"{out}: {', '.join(settings.kinds)} of {_images(outcome.done)}{speed}"]
    if work.skipped:
        lines.append(f"{_images(work.skipped)} had them already")
    if outcome.broken:
        lines.append(f"{_images(len(outcome.broken))} could not be read")
    return "\n".join(lines)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
