"""dgseg bench checkpoint: how long training stands still for a save."""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from dgseg.bench import checkpoint, report
from dgseg.machine import machine

DESCRIPTION = (
    "Saves a training state of random numbers several times: the seconds that training stands still for it and those "
    "until it is on the disk, beside torch.save, which training waits for, and beside one copy in memory."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parameters", type=float, default=85, metavar="M", help="millions (default: 85)")
    parser.add_argument("--folder", type=Path, help="the disk to write to (default: that of temporary files)")
    parser.add_argument("--device", default="cpu", help="where the state is: cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every contender (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="saves of every contender (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def main(arguments: argparse.Namespace) -> int:
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("dgseg bench: this torch sees no GPU; drop --device cuda")
    if min(arguments.rounds, arguments.threads) < 1 or arguments.parameters <= 0:
        raise SystemExit("dgseg bench: --rounds and --threads must be at least 1, --parameters above 0")
    folder = arguments.folder or Path(tempfile.gettempdir())
    if not folder.is_dir():
        raise SystemExit(f"dgseg bench: {folder} is no folder; name one on the disk to measure with --folder")
    torch.set_num_threads(arguments.threads)
    found = machine(device, (("safetensors", "safetensors"),)) | {"folder": str(folder)}
    print(report.header_text(found), flush=True)
    result = checkpoint.measure(int(arguments.parameters * 1e6), device, folder, arguments.rounds)
    print(checkpoint.text(result))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps(found | {"unit": "seconds, bytes", **checkpoint.as_json(result)}, indent=1)
        )
    return 0
