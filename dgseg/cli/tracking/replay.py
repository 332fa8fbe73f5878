"""dgseg tracking replay: what a tracking server missed, sent now."""

import argparse
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
        from dgseg.runs.tracking.shipper import replay
    except ImportError as error:
        raise SystemExit(f"dgseg tracking replay: {error}: pip install 'dgseg[train]'") from error
    left = 0
    for folder in arguments.folders:
        try:
            shipper = replay(folder, arguments.uri)
        except Exception as error:  # a server that is away raises whatever its client likes
            print(f"{folder}: {error}; everything is kept there")
            left += 1
            continue
        count = shipper.state["refused"]
        refused = f"; {count} refused, see {shipper.folder / 'refused.jsonl'}" if count else ""
        print(f"{folder}: all of it is in MLflow, run {shipper.state.get('run_id', 'not begun')}{refused}")
    return 1 if left else 0
