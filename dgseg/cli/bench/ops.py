"""dgseg bench ops: the operators beside what one would use instead."""

import argparse
import json
from pathlib import Path

import torch

from dgseg.bench import report
from dgseg.bench.cases import CASES
from dgseg.bench.ops import Result, Settings, run

DESCRIPTION = (
    "Times each operator, its peers and their floor in turns, in one process. An operator whose outputs differ from "
    "its reference's at these inputs gets no time but a refusal, and the exit status is 1."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every contender (default: 2)")
    parser.add_argument("--rounds", type=int, default=30, help="turns of every contender (default: 30)")
    parser.add_argument("--quick", action="store_true", help="5 rounds: does it run, roughly how fast")
    parser.add_argument(
        "--size", choices=["table", "tiny"], default="table", help="tiny: odd shapes of a few pixels, for sanitizers"
    )
    parser.add_argument("--verify-only", action="store_true", help="compare with the references, time nothing")
    parser.add_argument("--alone", action="store_true", help="without peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def main(arguments: argparse.Namespace) -> int:
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("dgseg bench: this torch sees no GPU; drop --device cuda")
    if arguments.rounds < 1 or arguments.threads < 1:
        raise SystemExit("dgseg bench: --rounds and --threads must be at least 1")
    torch.set_num_threads(arguments.threads)
    settings = Settings(
        device=device,
        rounds=5 if arguments.quick else arguments.rounds,
        size=arguments.size,
        verify_only=arguments.verify_only,
        alone=arguments.alone,
    )
    header = report.header(settings)
    print(report.header_text(header), flush=True)
    results: list[Result] = []

    def show(result: Result) -> None:
        print(report.text(result), flush=True)
        results.append(result)
        if arguments.json:  # again after every case: a run that is cut short keeps what it measured
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(report.as_json(header, results), indent=1) + "\n")

    run(arguments.op or list(CASES), settings, show)
    return 1 if any(result.refused for result in results) else 0
