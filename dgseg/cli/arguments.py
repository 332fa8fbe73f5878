"""Command lines from dataclasses: a field is a flag, with its type, default and docstring (`described` where that has
several lines). Verbs that score models share the groups below, so that a flag means the same in each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import tyro
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from dgseg.cli.model_arguments import PRECISIONS, option, torch_device
from dgseg.models.base import SegmentationModel
from dgseg.models.trained import trained

T = TypeVar("T")

Specs = Annotated[tuple[str, ...], arg(metavar="SPEC…")]  # of data sets
File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Folder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")]
Count = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Words = Annotated[tuple[str, ...], arg(metavar="NAME…", help_behavior_hint="")]
Options = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
ProtocolName = Annotated[
    Literal["native", "streets", "paper", "paper-daformer", "paper-hrda", "realtime"],
    arg(
        help="How images are shown: whole at their own size (native, streets), as in FLEX-Seg's tables (paper: by the "
        "model's name), or Cityscapes at 512x1024 (realtime)."
    ),
]


def parse(kind: type[T], argv: Sequence[str], *, prog: str, description: str, examples: str = "") -> T:
    """SystemExit after --help and after a wrong flag, which is explained."""
    flags = [word.partition("=")[0] for word in argv if word.startswith("--") and not word.startswith("--set")]
    if twice := [flag for flag in flags if flags.count(flag) > 1]:
        raise ValueError(f"{twice[0]} is given twice: give it once, with all its values behind it")
    try:
        return tyro.cli(
            kind,
            prog=prog,
            description=description,
            args=list(argv),
            config=(tyro.conf.AvoidSubcommands,),
        )
    except SystemExit as status:
        if examples and not status.code:
            print(f"examples:\n{examples}")
        raise


def described(text: str, metavar: str | None = None) -> Any:
    """For what has no default that is worth showing."""
    return arg(help=text, metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True)
class Weights:
    """One model."""

    weights: Annotated[Path, arg(metavar="FILE")]
    """Our safetensors, which say their architecture, or a published checkpoint with --model."""
    model: Name = None
    """The architecture, where the weights do not say it."""
    num_classes: int = 19
    set: Options = ()
    """An option of the model's own, as align_corners=True; may be repeated."""

    def load(self, device: torch.device) -> SegmentationModel:
        return _loaded(self.weights, self.model, self.set, self.num_classes).to(device)


@dataclass(frozen=True)
class TwoWeights:
    """Models A and B, each with its own weights and options."""

    a: Annotated[Positional[Path], arg(metavar="A")]
    """Weights: our safetensors, or with --model-a published ones."""
    b: Annotated[Positional[Path | None], arg(metavar="B")] = None
    """Another model's."""
    model_a: Name = None
    """Architecture of A, where the weights do not say it."""
    set_a: Options = ()
    """An option of A's, as align_corners=True; may be repeated."""
    model_b: Name = None
    """Architecture of B, likewise."""
    set_b: Options = ()
    """An option of B's, likewise."""
    num_classes: int = 19

    def load(self, device: torch.device) -> dict[str, SegmentationModel]:
        """ "A" and "B", in eval mode."""
        found = {"A": _loaded(self.a, self.model_a, self.set_a, self.num_classes, "--model-a").to(device)}
        if self.b is not None:
            found["B"] = _loaded(self.b, self.model_b, self.set_b, self.num_classes, "--model-b").to(device)
        return found

    def runs(self) -> dict[str, str]:
        """ "A" -> the name of its run, with its letter where both have one."""
        names = {"A": run_name(self.a)} | ({} if self.b is None else {"B": run_name(self.b)})
        alike = len(names) > len(set(names.values()))
        return {letter: f"{name} ({letter})" if alike else name for letter, name in names.items()}

    def describe(self, models: dict[str, SegmentationModel]) -> dict[str, str]:
        """ "A" -> its run, architecture and file."""
        files, runs = {"A": self.a, "B": self.b}, self.runs()
        return {name: f"{runs[name]} ({model.architecture}, {files[name]})" for name, model in models.items()}


def _loaded(
    weights: Path, model: str | None, words: Sequence[str], num_classes: int, flag: str = "--model"
) -> SegmentationModel:
    try:
        return trained(weights, model, num_classes, options(words))
    except ValueError as error:
        raise ValueError(str(error).replace("name it with --model", f"name it with {flag}")) from error


@dataclass(frozen=True)
class Work:
    """How the work is done."""

    device: Annotated[str, arg(metavar="auto|cpu|cuda")] = "auto"
    """auto: a GPU if there is one."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    batch: Annotated[int, arg(metavar="N")] = 4
    """Images, or windows of one, at once."""
    loaders: Annotated[int, arg(metavar="N")] = 2
    """Processes that load images, of every process that scores."""
    limit: Count = None
    """Images of every data set, the first ones (default: all)."""

    def options(self) -> dict[str, Any]:
        """As `evaluate` takes them."""
        if self.limit is not None and self.limit < 1:
            raise ValueError("--limit must be at least 1")
        precision = PRECISIONS[self.precision]
        return {"batch_size": self.batch, "workers": self.loaders, "autocast": precision, "limit": self.limit}

    @property
    def torch_device(self) -> torch.device:
        return torch_device(self.device)


def options(words: Sequence[str]) -> dict[str, Any]:
    return dict(option(word) for word in words)


def run_name(weights: Path) -> str:
    """What a report calls a model: its run, where the file is named as all runs name theirs."""
    path = weights.absolute()
    if path.name == "model.safetensors" and path.parent.parent.name == "checkpoints":
        return f"{path.parents[2].name} {path.parent.name}"
    return path.parent.name if path.name == "weights.safetensors" and path.parent.name else path.stem


__all__ = [
    "Count",
    "File",
    "Folder",
    "Name",
    "OmitArgPrefixes",
    "Options",
    "Positional",
    "ProtocolName",
    "Specs",
    "TwoWeights",
    "Weights",
    "Words",
    "Work",
    "arg",
    "described",
    "options",
    "parse",
    "run_name",
]
