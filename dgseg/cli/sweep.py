"""dgseg sweep <recipe>: trials over a recipe's settings, on this machine or a Ray cluster."""

from collections.abc import Sequence

RESUME = "the same command resumes"


def command_line(argv: Sequence[str]) -> int:
    from dgseg.runs.sweep.main import sweep_command

    return sweep_command(argv)
