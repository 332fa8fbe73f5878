"""dgseg bench step: what FLEX-Seg costs in a training step."""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from dgseg.bench import report, step
from dgseg.bench.ops import Settings

DESCRIPTION = (
    "Times FLEX-Seg's losses (bands, UBE, GAP, the prototypes' update) beside plain cross-entropy and beside the same "
    "losses composed from plain torch, by themselves and in the whole training step, in turns, in one process. "
    "Terms or gradients that differ from plain torch's get no time. The daformer case takes minutes on a CPU."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", action="append", choices=list(step.CASES), help="may be repeated (default: streets)")
    parser.add_argument("--dim", type=int, help="of the prototypes (default: 64 for streets, 256 for daformer)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every contender (default: 2)")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every loss part (default: 20)")
    parser.add_argument("--steps", type=int, default=5, help="turns of every whole step (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def say(line: str) -> None:
    print(line, flush=True)


def main(arguments: argparse.Namespace) -> int:
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("dgseg bench: this torch sees no GPU; drop --device cuda")
    if min(arguments.rounds, arguments.steps, arguments.threads, arguments.dim or 1) < 1:
        raise SystemExit("dgseg bench: --rounds, --steps, --threads and --dim must be at least 1")
    torch.set_num_threads(arguments.threads)
    header = report.header(Settings(device, arguments.rounds, "table", verify_only=False, alone=False))
    print(report.header_text(header), flush=True)
    results = []
    for name in arguments.case or ["streets"]:
        case = step.CASES[name]
        if arguments.dim:
            case = dataclasses.replace(case, dim=arguments.dim)
        results.append(step.run_case(case, device, arguments.rounds, arguments.steps, say))
        say(step.text(results[-1]))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        found = header | {"unit": "seconds, bytes", "results": [step.as_json(result) for result in results]}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0
