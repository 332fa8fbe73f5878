"""dgseg bench ranks: what workers of one machine pay for telling each other small rows."""

import argparse
import json
from pathlib import Path

from dgseg.bench import ranks, report
from dgseg.machine import machine

DESCRIPTION = (
    "Starts workers on this machine's CPUs and times what batch norms and losses tell each other, through sockets "
    "(gloo) and through memory that the workers share, and training steps of flexseg-streets both ways."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (default: 2)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: does it run, roughly how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def main(arguments: argparse.Namespace) -> int:
    if arguments.workers < 2:
        raise SystemExit("dgseg bench: --workers must be at least 2: one has nobody to tell")
    header = machine() | {"settings": {"quick": arguments.quick, "workers": arguments.workers}}
    print(report.header_text(header), flush=True)
    part = ranks.run(arguments.workers, arguments.quick)
    print(part.text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(header | {"parts": [part.as_json()]}, indent=1) + "\n")
    return 1 if part.refused else 0
