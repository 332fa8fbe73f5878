"""dgseg train <recipe>: a run on this machine; on a cluster, ray_jobs/train_flexseg.py takes the same command line."""

from collections.abc import Sequence


def command_line(argv: Sequence[str]) -> int:
    from dgseg.runs.launch.main import here

    return here(argv)
