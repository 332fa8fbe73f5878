"""dgseg generate: CG-Aug, an augmented data set from a labelled one."""

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any

from dgseg.cli.data.progress import progress_bar

DESCRIPTION = (
    "Pastes the outline of an unknown object onto the road of every label map, has an image of it generated under "
    "another weather and time of day, and keeps what passes the filter: train on it as pairs=FOLDER. Interrupted, the "
    "same command goes on where it was. Generators: streets (draws the streets world's own scenes again), a command of "
    'yours that is run once per image ("python draw.py --map {colours} --text {prompt} --seed {seed} -o {out}"), or a '
    "Python function module:function (label, prompt, seed) -> uint8 [H, W, 3]."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="name=path or name=path@split, as everywhere; with labels")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="new or begun earlier")
    generator = parser.add_argument_group("generator (default: streets)").add_mutually_exclusive_group()
    generator.add_argument(
        "--streets",
        choices=("coherent", "both", "semantic"),
        help="object and scene drawn as one (the default); the object taken from the original look; the object alone",
    )
    generator.add_argument("--command", metavar="WORDS", help="with {out}, and {label} or {colours}; {prompt}, {seed}")
    generator.add_argument("--function", metavar="MODULE:NAME")
    pasting = parser.add_argument_group("objects")
    pasting.add_argument("--masks", metavar="FOLDER", help="PNGs with the outlines (default: drawn ones)")
    pasting.add_argument("--objects", type=int, default=1, help="at most so many per image (default: 1)")
    pasting.add_argument(
        "--long-side",
        type=int,
        nargs=2,
        default=(200, 500),
        metavar=("LEAST", "MOST"),
        help="of an object, in pixels of an image 1024 high (default: 200 500)",
    )
    pasting.add_argument("--prompt", help="{weather} and {time} are drawn")
    passing = parser.add_argument_group("filter")
    passing.add_argument("--tries", type=int, default=5, help="per image, until one passes (default: 5)")
    passing.add_argument(
        "--segmenter",
        default="colour",
        metavar="colour|none|MODULE:NAME",
        help="(image [H, W, 3], box) -> mask, of the pasted object; colour needs no weights (default)",
    )
    passing.add_argument("--iou", type=float, default=0.7, help="of that mask with the pasted one (default: above 0.7)")
    passing.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="of a model that must find the object unknown, with --least-score",
    )
    passing.add_argument("--model", help="its name, where the file does not say it")
    passing.add_argument("--scorer", help="how it is asked (default: energy)")
    passing.add_argument("--least-score", type=float, metavar="U", help="mean over the object's pixels")
    parser.add_argument("--variants", type=int, default=1, help="generated images per image (default: 1)")
    parser.add_argument("--part", type=_part, default=(0, 1), metavar="I/N", help="of N that run at once: 1/4")
    parser.add_argument("--seed", type=int, default=0)


def _part(text: str) -> tuple[int, int]:
    which, slash, parts = text.partition("/")
    if not (slash and which.isdecimal() and parts.isdecimal() and 1 <= int(which) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, as in 1/4")
    return int(which) - 1, int(parts)


def main(arguments: argparse.Namespace) -> int:
    from dgseg.data import from_spec
    from dgseg.data.cutpaste import CutPaste
    from dgseg.generation import Settings, generate

    dataset = from_spec(arguments.dataset)
    paste = CutPaste(tuple(arguments.long_side), arguments.objects, arguments.masks)
    words = {} if arguments.prompt is None else {"prompt": arguments.prompt}
    settings = Settings(arguments.variants, arguments.tries, arguments.seed, paste=paste, **words)
    generator, made_by = _generator(dataset, arguments)
    quality, filtered_by = _filter(arguments)
    start, (which, parts) = time.monotonic(), arguments.part
    total = len(range(which, len(dataset) * settings.variants, parts))
    if not total:
        print(f"part {which + 1}/{parts} has nothing to do: {len(dataset) * settings.variants} images are wanted")
        return 0
    with progress_bar(f"generating from {dataset.name}", total) as progress:
        summary = generate(
            dataset,
            arguments.out,
            generator,
            settings,
            quality,
            made_by=f"{arguments.dataset}; {made_by}; {filtered_by}",
            part=arguments.part,
            progress=progress,
        )
    print(
        f"{arguments.out}: {summary.accepted:,} images, {summary.tries / total:.1f} tries each, "
        f"{time.monotonic() - start:.0f} s"
    )
    if summary.rejected:
        print(f"{summary.rejected:,} images have none: no try passed the filter; the records say why")
    if not summary.accepted:
        return 1
    print(f"Train on pairs of it and the originals as pairs={arguments.out}, on it alone as generated={arguments.out}")
    return 0


def _generator(dataset: Any, arguments: argparse.Namespace) -> tuple[Any, str]:
    from dgseg.generation import Command, Function, StreetsRenderer
    from dgseg.generation.generator import function_named

    if arguments.command:
        return Command(arguments.command), f"command {arguments.command}"
    if arguments.function:
        function: Any = function_named(arguments.function)
        return Function(function), f"function {arguments.function}"
    shift = arguments.streets or "coherent"
    return StreetsRenderer(dataset, shift), f"streets {shift}"


def _filter(arguments: argparse.Namespace) -> tuple[Any, str]:
    from dgseg.generation import Filter, by_colour
    from dgseg.generation.augment import scorer_of
    from dgseg.generation.generator import function_named

    segmenter: Any = {"colour": by_colour, "none": None}.get(arguments.segmenter, "")
    if segmenter == "":
        segmenter = function_named(arguments.segmenter)
    asked = [arguments.model, arguments.scorer, arguments.weights, arguments.least_score]
    if any(each is not None for each in asked) and any(each is None for each in asked[2:]):
        raise ValueError("a model's opinion takes --weights and --least-score, and --model where the file does not say")
    scorer, way = None, arguments.scorer or "energy"
    if arguments.weights is not None:
        from dgseg.models.trained import trained

        named = arguments.model is not None
        options = {"uncertainty": True} if named and way == "learned" else {}
        model = trained(arguments.weights, arguments.model, options=options)
        scorer = scorer_of(model, way)
    said = f"segmenter {arguments.segmenter} above {arguments.iou}"
    if scorer is not None:
        # By what it holds: every run's file is called weights.safetensors.
        with arguments.weights.open("rb") as file:
            held = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        said += f", {arguments.model or 'its own'} {held} {way} from {arguments.least_score}"
    return Filter(segmenter, arguments.iou, scorer, arguments.least_score or 0.0), said
