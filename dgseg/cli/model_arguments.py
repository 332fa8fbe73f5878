"""What the verbs that take a model by name share."""

import argparse
import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgseg.models import build
from dgseg.models.base import SegmentationModel

if TYPE_CHECKING:
    import torch


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
    add_model_arguments(parser)


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """For verbs that work with a trained model; `loaded` makes it."""
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="checkpoint, own or published")
    parser.add_argument("--model", metavar="NAME", help="whose weights they are, where the file does not say so")
    add_model_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
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


def of_weights(path: Path) -> str:
    """The model that our own weights files name themselves after."""
    from dgseg.models.weights.reading import read

    name = read(path)[1].get("architecture")
    if not name:
        raise ValueError(f"{path} does not say which model it is of; name it: --model bisenet_r18")
    return name


def built(name: str, arguments: argparse.Namespace, weights: Path | None = None) -> SegmentationModel:
    """In eval mode; without weights its random values are the same every time."""
    import torch

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


def loaded(arguments: argparse.Namespace) -> SegmentationModel:
    """What add_weights_arguments asks for, in eval mode on --device."""
    place = torch_device(arguments.device)
    return built(arguments.model or of_weights(arguments.weights), arguments, arguments.weights).to(place)


def torch_device(name: str) -> "torch.device":
    """auto: a GPU if there is one."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"there is no device {name!r}: cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("this torch sees no GPU; leave --device out")
    return device
