"""dgseg <verb>: the command line. Each verb lives in a module of its own, imported only when it is called."""

import argparse
from collections.abc import Sequence
from importlib import import_module

from dgseg import __version__

# verb -> (module with add_arguments(parser) and main(arguments) -> exit status, what `dgseg --help` says)
VERBS = {
    "bench": ("dgseg.cli.bench", "time the operators against what one would use instead"),
    "demo": ("dgseg.cli.demo", "train a small network on random label maps through every operator"),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="dgseg", description="Segmentation models that hold up in domains they have never seen."
    )
    parser.add_argument("--version", action="version", version=f"dgseg {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="<verb>", required=True)
    for verb, (_, summary) in VERBS.items():
        subparsers.add_parser(verb, help=summary, add_help=False)
    # Only the verb is parsed here: its own module, and torch with it, loads after `dgseg --help` has answered.
    known, rest = parser.parse_known_args(argv)
    module = import_module(VERBS[known.verb][0])
    verb_parser = argparse.ArgumentParser(prog=f"dgseg {known.verb}", description=VERBS[known.verb][1])
    module.add_arguments(verb_parser)
    return int(module.main(verb_parser.parse_args(rest)))
