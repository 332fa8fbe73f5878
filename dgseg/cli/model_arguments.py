"""What the verbs that take a model by name share."""

import argparse
import ast
import json
from pathlib import Path
from typing import Any

import torch

from dgseg.models import build
from dgseg.models.base import SegmentationModel

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def size(text: str) -> tuple[int, int]:
    height, times, width = text.partition("x")
    if not (times and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH, as 512x1024; this is {text!r}")
    return int(height), int(width)


def option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"an option is name=value; this is {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=size, default=(512, 1024), metavar="HxW", help="of the image (default: 512x1024)"
    )
    parser.add_argument("--num-classes", type=int, default=19, help="(default: 19)")
    parser.add_argument(
        "--set",
        type=option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="options",
        help="an option of the model's own, as rank=8; may be repeated",
    )


def built(name: str, arguments: argparse.Namespace, weights: Path | None = None) -> SegmentationModel:
    """In eval mode; without weights its random values are the same every time."""
    torch.manual_seed(0)
    options = dict(arguments.options)
    try:
        model = build(name, arguments.num_classes, **options)
    except TypeError as error:
        if not options:
            raise
        raise ValueError(f"{name} cannot be built with {options}: {error}") from error
    if weights is not None:
        from dgseg.models import load_weights
        from dgseg.models.lora import is_adapter, load_adapter

        (load_adapter if is_adapter(weights) else load_weights)(model, weights)
    return model.eval()


def add_weights_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """For verbs that use a trained model; `from_weights` then makes it."""
    parser.add_argument(
        "--weights",
        type=Path,
        required=required,
        metavar="FILE",
        help="our safetensors, which say their architecture, or a published checkpoint with --model",
    )
    parser.add_argument("--model", metavar="NAME", help="the architecture, where the weights do not say it")
    parser.add_argument("--num-classes", type=int, default=19, help="(default: 19)")
    parser.add_argument(
        "--set",
        type=option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="options",
        help="an option of the model's own, as align_corners=True; may be repeated",
    )


def from_weights(arguments: argparse.Namespace) -> SegmentationModel:
    from dgseg.models.weights.loading import looks_like
    from dgseg.models.weights.reading import bare, read

    name = arguments.model
    if name is None:
        state, metadata = read(arguments.weights)
        name = metadata.get("architecture")
        # What the command line says stands behind, and hence wins.
        options = [*json.loads(metadata.get("options", "{}")).items(), *arguments.options]
        arguments = argparse.Namespace(**vars(arguments) | {"options": options})
        if not name:
            looks = looks_like(bare(state)[0], metadata)
            hint = f"; it looks like {looks}" if looks else ""
            raise ValueError(f"{arguments.weights} does not say which model it is of{hint}: name it with --model")
    return built(name, arguments, arguments.weights)


def torch_device(name: str) -> torch.device:
    """auto: a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"there is no device {name!r}: cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("this torch sees no GPU; leave --device out")
    return device
