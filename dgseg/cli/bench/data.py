"""dgseg bench data: what stands between disk and batches."""

import argparse
import json
from importlib import import_module
from pathlib import Path

from dgseg.bench import report
from dgseg.bench.part import Part
from dgseg.machine import machine

# part -> a module whose run(quick) returns a Part
PARTS = {
    "samplers": "dgseg.bench.samplers",
    "throughput": "dgseg.bench.data_throughput",
    "codecs": "dgseg.bench.data_codecs",
}
DESCRIPTION = (
    "Measures what stands between disk and batches, beside what one would use instead. What is wrong is refused and "
    "gets no figures, and the exit status is 1."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", action="append", choices=list(PARTS), help="only this part; may be repeated")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: does it run, roughly how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def main(arguments: argparse.Namespace) -> int:
    header = machine() | {"settings": {"quick": arguments.quick}}
    print(report.header_text(header), flush=True)
    parts: list[Part] = []
    for name in arguments.only or PARTS:
        parts.append(import_module(PARTS[name]).run(arguments.quick))
        print(parts[-1].text, flush=True)
        if arguments.json:  # again after every part: a run that is cut short keeps what it measured
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            found = header | {"parts": [part.as_json() for part in parts]}
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if any(part.refused for part in parts) else 0
