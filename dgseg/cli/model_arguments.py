"""What the verbs that take a model by name share."""

import argparse
import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dgseg.models.base import SegmentationModel
from dgseg.models.trained import trained, untrained

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
    options = dict(arguments.options)
    if weights is None:
        return untrained(name, arguments.num_classes, options)
    return trained(weights, name, arguments.num_classes, options)


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
    return trained(arguments.weights, arguments.model, arguments.num_classes, dict(arguments.options))


def check_outputs(*files: Path | None, folders: Sequence[Path | None] = ()) -> None:
    """Before an hour of scoring: makes the folders that results go to, and refuses what cannot be written there."""
    for path in filter(None, files):
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file in it")
    for folder in {*(path.parent for path in filter(None, files)), *filter(None, folders)}:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"nothing can be written into {folder}")


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
