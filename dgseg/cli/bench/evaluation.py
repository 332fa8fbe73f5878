"""dgseg bench evaluation: from precomputed logits to mIoU, beside torchmetrics and beside loading the images."""

import argparse
import json
from pathlib import Path

import torch

from dgseg.bench import evaluation, report
from dgseg.bench.ops import Settings

DESCRIPTION = (
    "Times scoring for a model that costs nothing: quarter-resolution logits are there, labels are 512x1024. Beside it "
    "what is usual (interpolate, argmax, torchmetrics), and decoding the same number of images and labels."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every contender (default: 2)")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every contender (default: 20)")
    parser.add_argument("--size", choices=["table", "tiny"], default="table", help="tiny: does it run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def main(arguments: argparse.Namespace) -> int:
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("dgseg bench: this torch sees no GPU; drop --device cuda")
    if arguments.rounds < 1 or arguments.threads < 1:
        raise SystemExit("dgseg bench: --rounds and --threads must be at least 1")
    torch.set_num_threads(arguments.threads)
    settings = Settings(device=device, rounds=arguments.rounds, size=arguments.size, verify_only=False, alone=False)
    header = report.header(settings)
    print(report.header_text(header), flush=True)
    result = evaluation.run(settings)
    print(report.text(result))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report.as_json(header, [result]), indent=1) + "\n")
    return 1 if result.refused else 0
