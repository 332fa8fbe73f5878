"""dgseg profile <name …>: what models cost."""

import argparse
import json
import textwrap
from pathlib import Path

import torch

from dgseg.bench import model_report, report
from dgseg.bench.models import Result, Settings, profile
from dgseg.cli import model_arguments
from dgseg.machine import machine

DESCRIPTION = (
    "Parameters, FLOPs and MACs, latency and memory of models, each beside what one would use instead and the papers' "
    "own rows, timed in turns in one process."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="name", help="models, as bisenet_r18 segformer_b0")
    model_arguments.add_arguments(parser)
    parser.add_argument("--batch", type=int, help="images at once (default: 1; with --train 2)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: all)")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every contender (default: 20)")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="the latter two by autocast"
    )
    parser.add_argument("--train", action="store_true", help="forward and backward instead of inference")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="rows more: torch.compile, as for serving: logits alone; on a CPU constant weights, channels last, "
        "beside eager in that layout",
    )
    parser.add_argument("--fold", action="store_true", help="a row more: batch normalisation folded away")
    parser.add_argument("--channels-last", action="store_true", help="all models and images")
    parser.add_argument(
        "--exported",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a row more: what `dgseg export` wrote of this one model; may be repeated",
    )
    parser.add_argument("--peers", action="store_true", help="rows more: the equivalents of other libraries")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture: parameters against latency")


def main(arguments: argparse.Namespace) -> int:
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("dgseg profile: this torch sees no GPU; drop --device cuda")
    batch = (2 if arguments.train else 1) if arguments.batch is None else arguments.batch
    if min(arguments.rounds, arguments.threads, batch) < 1:
        raise SystemExit("dgseg profile: --rounds, --threads and --batch must be at least 1")
    if arguments.exported and len(arguments.names) > 1:
        raise SystemExit("dgseg profile: --exported belongs to one model; name only that one")
    torch.set_num_threads(arguments.threads)
    settings = Settings(
        device=device,
        size=arguments.size,
        batch=batch,
        num_classes=arguments.num_classes,
        dtype=getattr(torch, arguments.dtype),
        rounds=arguments.rounds,
        train=arguments.train,
        compile=arguments.compile,
        fold=arguments.fold,
        channels_last=arguments.channels_last,
        peers=arguments.peers,
        options=dict(arguments.options),
    )
    header = machine(device, model_report.LIBRARIES)
    print(report.header_text(header))
    print("\n".join(textwrap.wrap(model_report.CONVENTION, 118)), flush=True)
    results: list[Result] = []
    for name in arguments.names:
        try:
            result = profile(name, settings, arguments.exported)
        except ValueError as error:
            raise SystemExit(f"dgseg profile: {error}") from error
        print(model_report.text(result, settings), flush=True)
        results.append(result)
        if arguments.json:  # again after every model: a run that is cut short keeps what it measured
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            found = model_report.as_json(header, settings, results)
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plot:
        hardware = header["hardware"]
        where = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['threads']} threads"
        model_report.plot(results, settings, where, arguments.plot)
        print(f"\nwrote {arguments.plot}")
    failed = any(row.failed for result in results for row in result.rows if row.way != "peer")
    return 1 if failed else 0
