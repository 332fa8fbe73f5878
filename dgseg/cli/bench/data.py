"""dgseg bench data: how fast samples come, beside what one would use instead."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

DESCRIPTION = (
    "Times packed data beside the usual pipelines in turns, in one process, on one thread, after checking what they "
    "compute. It makes its own images in a temporary folder."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=["throughput", "codecs"], help="codecs: the candidates for packing")
    parser.add_argument("--rounds", type=int, default=30, help="turns of every contender (default: 30)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, 6 images, 200 reads: does it run, roughly")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def main(arguments: argparse.Namespace) -> int:
    from dgseg.bench import data_codecs, data_throughput, report
    from dgseg.bench.ops import Settings

    if arguments.rounds < 1:
        raise SystemExit("dgseg bench data: --rounds must be at least 1")
    torch.set_num_threads(1)
    rounds = 3 if arguments.quick else arguments.rounds
    header = report.header(Settings(torch.device("cpu"), rounds, "table", verify_only=False, alone=False))
    print(report.header_text(header), flush=True)
    found: dict[str, Any] = {}
    refused = None
    if arguments.only in (None, "throughput"):
        images, reads = (6, 200) if arguments.quick else (24, data_throughput.READS)
        result = data_throughput.run(rounds, images, reads)
        print(data_throughput.text(result), flush=True)
        found["throughput"] = data_throughput.as_json(result)
        refused = result.refused
    if arguments.only in (None, "codecs"):
        results = data_codecs.run(rounds)
        print(data_codecs.text(results), flush=True)
        found["codecs"] = [
            {"group": c.group, "name": c.name, "bytes": c.bytes, "psnr": c.psnr} | dataclasses.asdict(times)
            for c, times in results
        ]
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(header | found, indent=1) + "\n")
    return 1 if refused else 0
