"""The command line of `dgseg sweep`: the sweep's flags, and everything that `dgseg train` takes for its trials."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from dgseg.runs.launch.cluster import make_private
from dgseg.runs.launch.command import Command, parse
from dgseg.runs.launch.main import checked
from dgseg.runs.sweep.space import Parameter, chosen, load_spaces, spaces

PROG = "dgseg sweep"


@dataclass(frozen=True)
class SweepArguments:
    command: Command
    options: argparse.Namespace
    parameters: list[Parameter]

    @property
    def own_cluster(self) -> bool:
        return self.command.launch.address is None and not os.environ.get("RAY_ADDRESS")


def read(argv: Sequence[str]) -> SweepArguments:
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    searched = load_spaces(options.space) if options.space else spaces
    if options.help:
        recipe = parse(rest, prog=PROG).recipe
        parser.print_help()
        print(f"\nwhat may be searched of {recipe.name}:")
        for each in searched(recipe):
            usual = "  (searched unless --search names others)" if each.usual else ""
            print(f"  {each.name}{usual}\n      {each.distribution}\n      {each.why}")
        raise SystemExit(0)
    command = checked(parse(rest, prog=PROG))
    if command.run.stop_after is not None:
        raise ValueError("--stop-after is for single runs: a sweep's trials stop at milestones")
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs is {options.jobs}; it must be at least 1")
    return SweepArguments(command, options, chosen(searched(command.recipe), options.search))


def sweep_command(argv: Sequence[str]) -> int:
    arguments = read(argv)
    if arguments.own_cluster:
        make_private()  # before Ray is imported, which the rest does
    if arguments.options.measure:
        from dgseg.runs.sweep.measure import measure

        return measure(arguments)
    from dgseg.runs.sweep.run import run_sweep

    return run_sweep(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        add_help=False,
        allow_abbrev=False,
        usage=f"{PROG} [RECIPE] [flags of the sweep] [flags of dgseg train]",
        description="Searches a recipe's settings by trials that are judged on validation domains alone. Killed and "
        "started again with the same --name it resumes.",
        epilog="Every flag of `dgseg train RECIPE` is one here: --name and --storage are the sweep's, --workers and "
        "--device each trial's, --schedule.steps and all other fields the recipe's that is searched around.",
    )
    add = parser.add_argument
    add("--trials", type=int, default=16, help="how many; the first has the recipe's own values (%(default)s)")
    add(
        "--search",
        nargs="+",
        default=[],
        metavar="FIELD",
        help="which fields, as objective.ube.alpha or ube.alpha, or all",
    )
    add("--space", metavar="FILE.py", help="a file with a function spaces(recipe), instead of the sweep's own list")
    add(
        "--domain",
        "--on",
        dest="on",
        metavar="DOMAIN",
        help="the domain of data.validation that decides; without it the mean of all",
    )
    add("--searcher", choices=("tpe", "random"), default="tpe", help="Optuna's TPE, or chance (%(default)s)")
    add(
        "--scheduler",
        choices=("asha", "none"),
        default="asha",
        help="asha stops poor trials at milestones (%(default)s)",
    )
    add(
        "--factor",
        type=int,
        default=3,
        help="asha: one of so many goes on, at steps/factor² and steps/factor (%(default)s)",
    )
    add(
        "--seed-of-search",
        dest="seed",
        type=int,
        default=0,
        help="of the search; the trials keep the recipe's (%(default)s)",
    )
    add("--jobs", type=int, metavar="K", help="trials side by side; without it as many as there is room for")
    add("--concurrent", type=int, dest="jobs", help=argparse.SUPPRESS)  # its older name
    add(
        "--measure",
        choices=("asha", "overhead"),
        help="instead of a sweep: what ASHA saves, or what Tune and tracking add to a trial",
    )
    add("-h", "--help", action="store_true", help="this, and what may be searched of the recipe")
    return parser
