"""dgseg train <recipe>: a run on this machine, or with --on ray on a cluster."""

from collections.abc import Sequence

RESUME = "the same command resumes from the last checkpoint"


def command_line(argv: Sequence[str]) -> int:
    from dgseg.runs.launch.main import train_command

    return train_command(argv)
