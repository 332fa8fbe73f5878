"""dgseg export <name>: a model for another runtime, verified there."""

import argparse
import logging
from pathlib import Path

import torch

from dgseg.cli import model_arguments
from dgseg.models.export import LARGE, TOLERANCE, export
from dgseg.models.folding import fold_batch_norms
from dgseg.models.lora import has_adapters, merge_adapters

DESCRIPTION = (
    "Writes a model as ONNX or as torch.export's program, then runs the file beside the model. It is kept where no "
    f"logit differs by more than {TOLERANCE:g}, or {TOLERANCE / LARGE:g} of the largest logit where that is more; "
    "otherwise the exit status is 1. The graph takes a batch of RGB images."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a model, as bisenet_r18")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint (default: random weights, for timing)")
    parser.add_argument("--to", choices=["onnx", "torch-export"], required=True)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="ends in .onnx or .pt2")
    model_arguments.add_arguments(parser)
    parser.add_argument("--dynamic", action="store_true", help="for any size and batch, where the model allows it")
    parser.add_argument(
        "--output",
        choices=["logits", "labels"],
        default="logits",
        help="logits at the model's own resolution (default), or a uint8 label map of the image's size",
    )
    parser.add_argument(
        "--input",
        choices=["uint8", "float32"],
        default="uint8",
        help="uint8 images, normalised inside (default), or float32 ones that are normalised already",
    )
    parser.add_argument("--no-fold", action="store_true", help="keep batch normalisation apart from its convolution")


def main(arguments: argparse.Namespace) -> int:
    for library in ("onnxscript", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        model = model_arguments.built(arguments.name, arguments, arguments.weights)
        if arguments.weights is None:
            print("no --weights: the exported values are random, its speed is real")
        if has_adapters(model):
            merge_adapters(model)
            print("merged the adapters into the layers that they adapt")
        if not arguments.no_fold:
            model, folded = fold_batch_norms(model)
            print(f"folded {folded} batch normalisations into their convolutions")
        height, width = arguments.size
        done = export(
            model,
            arguments.out,
            arguments.to,
            height=height,
            width=width,
            dynamic=arguments.dynamic,
            output=arguments.output,
            input=arguments.input,
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"dgseg export: {error}") from error
    runtime = "ONNX Runtime" if arguments.to == "onnx" else f"torch {torch.__version__}"
    print(
        f"{runtime} beside dgseg on {', '.join(done.sizes)}: largest difference {done.difference:.2e} of logits up to "
        f"{done.largest:.3g}, accepted {done.accepted:.1e}: {'OK' if done.ok else 'FAILED'}"
    )
    if not done.ok:
        print(f"{done.path} was not written")
        return 1
    print(f"wrote {done.path} ({done.path.stat().st_size / 1e6:.1f} MB)")
    return 0
