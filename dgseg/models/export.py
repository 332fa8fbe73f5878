"""Models for other runtimes: torch.export's file or ONNX. The graph takes a batch of images, uint8 RGB (normalised
inside) or normalised floats, and gives low-resolution logits or a label map of the images' size."""

import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.models.base import SegmentationModel

Format = Literal["torch-export", "onnx"]
Output = Literal["logits", "labels"]
Input = Literal["uint8", "float32"]
TOLERANCE = 1e-4  # of logits up to LARGE; larger ones, as random weights make them, have larger errors
LARGE = 10.0
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
INPUT_NAME = "images"


class Graph(nn.Module):
    """What is exported: one tensor in, one tensor out."""

    def __init__(self, model: SegmentationModel, output: Output) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).logits
        if self.output == "logits":
            return logits
        return _labels(_upsampled(self.model, logits, images))


def _upsampled(model: SegmentationModel, logits: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=model.align_corners)


def _labels(logits: Tensor) -> Tensor:
    return logits.argmax(1).to(torch.uint8)


@dataclass(frozen=True)
class Exported:
    path: Path
    sizes: list[str]  # of the images that it was verified with
    # The largest between its logits and ours; for labels, by how much ours preferred another class.
    difference: float
    largest: float  # logit

    @property
    def accepted(self) -> float:
        return TOLERANCE * max(1.0, self.largest / LARGE)

    @property
    def ok(self) -> bool:
        return self.difference <= self.accepted


def example(model: SegmentationModel, batch: int, height: int, width: int, input: Input, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
    return images if input == "uint8" else model.normalise(images)


def _other_shape(model: SegmentationModel, height: int, width: int) -> tuple[int, int, int]:
    return 2, height + model.dynamic_multiple, width + 2 * model.dynamic_multiple


def _program(graph: Graph, height: int, width: int, input: Input, dynamic: bool) -> Any:
    model = graph.model
    if not dynamic:
        return torch.export.export(graph, (example(model, 1, height, width, input),))
    multiple = model.dynamic_multiple
    # Twice the smallest image: where the coarsest map has one cell, the graph would be another.
    least, most = -(-2 * model.minimum // multiple), 16384 // multiple
    sides: list[Any] = [torch.export.Dim(name, min=least, max=most) for name in ("rows", "columns")]
    if multiple > 1:
        sides = [multiple * side for side in sides]
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024), 2: sides[0], 3: sides[1]},)
    try:
        # A batch of one would be taken for a constant.
        program = torch.export.export(graph, (example(model, 2, height, width, input),), dynamic_shapes=shapes)
        program.module()(example(model, *_other_shape(model, height, width), input))
    except Exception as error:  # of many kinds, most of them torch's own
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{type(model).__name__} cannot be exported for any size ({first}): leave dynamic out to export it for one"
        ) from error
    return program


def runner(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """Images in, output out, by the runtime that the file is for. A torch.export file may come from a stranger only
    where a Python pickle may."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {INPUT_NAME: images.numpy()})[0])
    module = torch.export.load(path).module()

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        output: Tensor = module(images)
        return output

    return run


def _difference(graph: Graph, run: Callable[[Tensor], Tensor], images: Tensor) -> tuple[float, float]:
    """And the largest logit."""
    found = run(images)
    logits = graph.model(images).logits
    largest = float(logits.abs().max())
    if graph.output == "logits":
        return float((found - logits).abs().max()), largest
    logits = _upsampled(graph.model, logits, images)
    theirs = logits.gather(1, found.long()[:, None])[:, 0]
    return float((logits.amax(1) - theirs).max()), largest


def _check(
    model: SegmentationModel, path: Path, to: Format, height: int, width: int, dynamic: bool, output: Output
) -> None:
    if model.training:
        raise ValueError("a model is exported in eval mode: call .eval()")
    multiple = model.dynamic_multiple if dynamic else model.multiple
    if height % multiple or width % multiple:
        raise ValueError(
            f"{type(model).__name__} takes sides that are multiples of {multiple}; {height}x{width} are not"
        )
    if dynamic and min(height, width) < 2 * model.minimum:
        raise ValueError(f"for any size, export with sides of at least {2 * model.minimum}; these are {height}x{width}")
    model.check(torch.empty(1, 3, height, width, device="meta"))
    if path.suffix != SUFFIXES[to]:
        raise ValueError(f"a file for {to} ends in {SUFFIXES[to]}; this one is {path.name}")
    if output == "labels" and model.num_classes > 256:
        raise ValueError(f"a uint8 label map holds 256 classes, not {model.num_classes}: export logits")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if to == "onnx" and find_spec(name) is None]
    if missing:
        raise ValueError(f'ONNX needs {", ".join(missing)}: pip install "dgseg[export]"')


def _save(program: Any, path: Path, to: Format, output: Output) -> None:
    if to == "torch-export":
        torch.export.save(program, path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program,
            f=path,
            input_names=[INPUT_NAME],
            output_names=[output],
            dynamo=True,
            verbose=False,
            external_data=False,
        )


@torch.no_grad()
def export(
    model: SegmentationModel,
    path: Path,
    to: Format,
    *,
    height: int,
    width: int,
    dynamic: bool = False,
    output: Output = "logits",
    input: Input = "uint8",
) -> Exported:
    """Writes the file and runs it beside the model: at this size, and where dynamic at another one, two at a time. A
    file whose output differs is not kept; what was at the path before then stays."""
    _check(model, path, to, height, width, dynamic, output)
    graph = Graph(model, output).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own internals
        program = _program(graph, height, width, input, dynamic)
    shapes = [(1, height, width)]
    if dynamic:
        shapes.append(_other_shape(model, height, width))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        written = Path(folder, path.name)
        _save(program, written, to, output)
        run = runner(written, torch.get_num_threads())
        found = [
            _difference(graph, run, example(model, *shape, input, seed=seed)) for seed, shape in enumerate(shapes, 1)
        ]
        difference, largest = torch.tensor(found, dtype=torch.float64).amax(0).tolist()  # NaN stays NaN
        done = Exported(path, ["x".join(map(str, shape)) for shape in shapes], difference, largest)
        if done.ok:
            os.replace(written, path)
    return done
