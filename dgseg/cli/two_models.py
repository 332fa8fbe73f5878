"""What the verbs that look at one or two models share: A and B, each with its own weights and options."""

import argparse
from pathlib import Path
from typing import Literal

import torch

from dgseg.cli import model_arguments
from dgseg.models.base import SegmentationModel


def add_arguments(parser: argparse.ArgumentParser, b: Literal["required", "optional"]) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="weights: our safetensors, or with --model-a published ones")
    parser.add_argument("b", type=Path, metavar="B", nargs="?" if b == "optional" else None, help="another model's")
    for which in "ab":
        parser.add_argument(f"--model-{which}", metavar="NAME", help="architecture, where the weights do not say it")
        parser.add_argument(
            f"--set-{which}",
            type=model_arguments.option,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"an option of {which.upper()}'s, as align_corners=True; may be repeated",
        )
    parser.add_argument("--num-classes", type=int, default=19, help="(default: 19)")
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU if there is one)")


def loaded(arguments: argparse.Namespace, device: torch.device) -> dict[str, SegmentationModel]:
    """ "A" and "B", in eval mode on the device."""
    found = {}
    for which, weights in (("a", arguments.a), ("b", arguments.b)):
        if weights is not None:
            own = argparse.Namespace(
                weights=weights,
                model=getattr(arguments, f"model_{which}"),
                options=getattr(arguments, f"set_{which}"),
                num_classes=arguments.num_classes,
            )
            found[which.upper()] = model_arguments.from_weights(own).to(device)
    return found


def described(arguments: argparse.Namespace, models: dict[str, SegmentationModel]) -> dict[str, str]:
    """ "A" -> its weights and architecture."""
    return {name: f"{getattr(arguments, name.lower())} ({model.architecture})" for name, model in models.items()}
