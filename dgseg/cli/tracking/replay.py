"""dgseg tracking replay: what a tracking server missed, sent now."""

import argparse
import os
from pathlib import Path

DESCRIPTION = (
    "Sends what MLflow has not confirmed while a run trained, because its server was down or slow. Every point arrives "
    "once, however often this is called. The exit status is 1 while something is left."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run: runs/flexseg_streets")
    parser.add_argument("--uri", help="of another server than the run's own, or with the password that is not kept")


def main(arguments: argparse.Namespace) -> int:
    try:
        from dgseg.runs.tracking.follow import replay
        from dgseg.runs.tracking.place import use_short_timeouts
        from dgseg.runs.tracking.spool import IDENTITY
    except ImportError as error:
        raise SystemExit(f"dgseg tracking replay: {error}: pip install 'dgseg[train]'") from error
    use_short_timeouts()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    left = 0
    for given in arguments.folders:
        folder = given if (given / IDENTITY).exists() else given / "mlflow"
        try:
            sender = replay(folder, arguments.uri)
        except Exception as error:  # a server that is away raises whatever its client likes
            print(f"{given}: {error}; everything is kept in {folder}")
            left += 1
            continue
        refused = f"; {sender.refused} refused, see {folder / 'refused.jsonl'}" if sender.refused else ""
        print(f"{given}: all of it is in MLflow, run {sender.identity.get('run_id', 'not begun')}{refused}")
    return 1 if left else 0
