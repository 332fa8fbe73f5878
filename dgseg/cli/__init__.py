"""dgseg <verb>: the command line. Each verb lives in a module of its own, imported only when it is called."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from itertools import pairwise
from typing import Any

from dgseg import __version__
from dgseg.cli.errors import user_errors

# verb -> (module, what `--help` says). A module has a dataclass Arguments, a DESCRIPTION, EXAMPLES and main(arguments)
# -> exit status; or add_arguments(parser) in place of the dataclass; or VERBS of its own; or it reads the rest of the
# command line itself, in command_line(argv) -> exit status. RESUME says how a command that was stopped is resumed.
VERBS = {
    "bench": ("dgseg.cli.bench", "microbenchmarks, each beside what one would use instead"),
    "compare": ("dgseg.cli.compare", "runs side by side: means over seeds, differences from a baseline"),
    "compare-models": ("dgseg.cli.compare_models", "is B better than A, or is it noise, and where do they differ"),
    "data": ("dgseg.cli.data", "look at data sets, check, choose, pack and compare them"),
    "detect": ("dgseg.cli.detect", "how well models find objects of no known class, by many scorers"),
    "doctor": ("dgseg.cli.doctor", "what this machine has, what is missing or slow, and how to mend it"),
    "embed": ("dgseg.cli.embed", "t-SNE of features and covariances, by class and by domain"),
    "evaluate": ("dgseg.cli.evaluate", "scores by the official conventions, per domain, and where a model fails"),
    "export": ("dgseg.cli.export", "write a model for another runtime, and run it there beside ours"),
    "generate": ("dgseg.cli.generate", "augment a labelled data set: unknown objects, other weather, in pairs"),
    "predict": ("dgseg.cli.predict", "label maps and overlays of images, folders and frames"),
    "profile": ("dgseg.cli.profile", "what models cost: parameters, FLOPs, latency, memory"),
    "study": ("dgseg.cli.study", "the ablation, and other grids of runs that answer a question"),
    "sweep": ("dgseg.cli.sweep", "search a recipe's settings by trials that are judged on validation domains"),
    "tracking": ("dgseg.cli.tracking", "runs' records in MLflow"),
    "train": (
        "dgseg.cli.train",
        "train a recipe, here or on Ray; --help lists the recipes and all their fields",
    ),
}

# Flags that take an address; every other word of a command line is a place on this machine.
ADDRESSES = {"storage", "mlflow", "uri", "address"}

# name -> (what it needs, what it gives, the commands): the README's table, for who has no README.
SYSTEMS = {
    "FLEX-Seg": ("labelled synthetic images", "classes told in fog, rain, snow, night", "dgseg train flexseg-streets"),
    "BlindNet": ("labelled synthetic images", "features blind to style", "dgseg train blindnet-streets"),
    "Real-time adaptation": (
        "the same, and the target's images",
        "BiSeNet adapted to the target",
        "dgseg train realtime-streets",
    ),
    "Generalize or Detect": (
        "pairs with an unknown object",
        "also a score of what no class covers",
        "dgseg study detection",
    ),
}


def _systems() -> str:
    rows = [("system", "needs", "gives", "command"), *((name, *says) for name, says in SYSTEMS.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["systems:", *(f"  {line}" for line in lines), "", "dgseg train --help lists all their recipes."])


def main(argv: Sequence[str] | None = None) -> int:
    return _dispatch(
        "dgseg",
        "Segmentation models that hold up in domains they have never seen.",
        VERBS,
        sys.argv[1:] if argv is None else argv,
    )


def _dispatch(program: str, description: str, verbs: Mapping[str, tuple[str, str]], argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=program, description=description)
    if program == "dgseg":
        parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _systems()
        parser.add_argument("--version", action="version", version=f"dgseg {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="<verb>", required=True)
    for verb, (_, summary) in verbs.items():
        subparsers.add_parser(verb, help=summary, add_help=False)
    word = next(iter(argv), "")
    if word not in verbs and not word.startswith("-") and (near := get_close_matches(word, verbs, 2, 0.5)):
        parser.error(f"there is no {program} {word}; did you mean {' or '.join(near)}?")
    # Only the verb is parsed here: its own module, and torch with it, loads after `--help` has answered.
    known, rest = parser.parse_known_args(argv)
    name, summary = verbs[known.verb]
    if known.verb != "compare":  # reads runs from object stores
        _refuse_addresses(f"{program} {known.verb}", rest)
    module = import_module(name)
    if hasattr(module, "VERBS"):
        return _dispatch(f"{program} {known.verb}", summary, module.VERBS, rest)
    with user_errors(f"{program} {known.verb}", getattr(module, "RESUME", "")):
        return _run(module, f"{program} {known.verb}", summary, rest)


def _run(module: Any, program: str, summary: str, argv: Sequence[str]) -> int:
    if hasattr(module, "command_line"):
        return int(module.command_line(argv))
    if hasattr(module, "Arguments"):
        from dgseg.cli.arguments import parse

        words = {"prog": program, "description": module.DESCRIPTION, "examples": module.EXAMPLES}
        return int(module.main(parse(module.Arguments, argv, **words)))
    verb_parser = argparse.ArgumentParser(prog=program, description=getattr(module, "DESCRIPTION", summary))
    module.add_arguments(verb_parser)
    return int(module.main(verb_parser.parse_args(argv)))


def _refuse_addresses(command: str, words: Sequence[str]) -> None:
    """s3://… where no object store is read: taken for a path, it would become a folder, secrets and all."""
    for before, word in pairwise(["", *words]):
        flag, equals, _ = word.partition("=")
        flag = flag if equals and flag.startswith("--") else before
        if "://" in word and flag.removeprefix("--run.").lstrip("-") not in ADDRESSES:
            from dgseg.data.dataset import DataError
            from dgseg.data.names import check_local

            try:
                check_local(word, "")
            except DataError as error:
                raise SystemExit(f"{command}: {error}") from None
