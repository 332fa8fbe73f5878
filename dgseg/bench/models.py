"""Models by what they cost: ours, as they are, folded, compiled or exported, beside their peers, in turns."""

import contextlib
import copy
import dataclasses
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgseg.bench import memory, model_papers
from dgseg.bench.model_peers import logits_of, peers
from dgseg.bench.timing import LatencyClock, Times, interleave
from dgseg.models import build
from dgseg.models.base import SegmentationModel
from dgseg.models.export import Graph, runner
from dgseg.models.folding import fold_batch_norms
from dgseg.models.lora import has_adapters, merge_adapters
from dgseg.models.profiling import Arithmetic, Parameters, arithmetic, parameters

WARM_UPS = 3
EAGER, CHANNELS_LAST, FOLDED, COMPILED = "eager", "channels last", "folded", "compiled"
COMPILED_TARGET = 1.3  # of BiSeNet's inference on a CPU
SAME_WORK = 0.9  # a peer with fewer multiply-adds than this share of ours is compared per multiply-add
LEAST_WORK = 0.5  # and one with fewer than this share only shown: it is a part of ours, its operations are others


@dataclass(frozen=True)
class Settings:
    device: torch.device
    size: tuple[int, int]
    batch: int
    num_classes: int
    dtype: torch.dtype
    rounds: int
    train: bool
    compile: bool
    fold: bool
    channels_last: bool
    peers: bool
    options: dict[str, Any]


@dataclass(frozen=True)
class Row:
    name: str
    way: str  # eager, channels last, folded, compiled, a file's format; "peer"
    parameters: Parameters | None = None
    arithmetic: Arithmetic | None = None  # of one image, in inference
    times: Times | None = None  # of one batch
    peak_extra: int | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Verdict:
    text: str
    reached: float
    ok: bool


@dataclass(frozen=True)
class Result:
    name: str
    rows: list[Row]
    verdicts: list[Verdict] = field(default_factory=list)
    published: list[model_papers.Published] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _counted(make: Callable[[], nn.Module], settings: Settings) -> tuple[Parameters, Arithmetic]:
    with torch.device("meta"):
        model = make().eval().to("meta")
        images = torch.empty(1, 3, *settings.size)
    return parameters(model), arithmetic(model, images)


def _placed(model: nn.Module, settings: Settings) -> nn.Module:
    model = model.train(settings.train).to(settings.device)
    return model.to(memory_format=torch.channels_last) if settings.channels_last else model


def _images(settings: Settings) -> Tensor:
    images = torch.randn(settings.batch, 3, *settings.size, generator=torch.Generator().manual_seed(0))
    images = images.to(settings.device)
    return images.contiguous(memory_format=torch.channels_last) if settings.channels_last else images


def _call(forward: Callable[[Tensor], Any], model: nn.Module, images: Tensor, settings: Settings) -> Callable[[], Any]:
    def precision() -> contextlib.AbstractContextManager[Any]:
        if settings.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(settings.device.type, dtype=settings.dtype)

    @torch.no_grad()  # inference_mode would keep the compiler from freezing weights
    def inference() -> Any:
        with precision():
            return logits_of(forward(images))

    def training() -> Any:
        with precision():
            output = forward(images)
            loss = logits_of(output).float().square().mean()
            for aux in getattr(output, "aux", []):
                loss = loss + aux.logits.float().square().mean()
        for parameter in model.parameters():
            parameter.grad = None
        loss.backward()
        return loss

    return training if settings.train else inference


def _ours(name: str, settings: Settings) -> tuple[SegmentationModel, list[str]]:
    torch.manual_seed(0)
    model = build(name, settings.num_classes, **settings.options).eval()
    notes = []
    if not settings.train and has_adapters(model):
        merge_adapters(model)
        notes.append("its adapters are merged into the layers that they adapt, as for serving")
    return model, notes


def _exported(path: Path, settings: Settings) -> Callable[[], Any]:
    if settings.device.type != "cpu" or settings.train:
        raise ValueError("an exported file is timed in inference on the CPU")
    run = runner(path, torch.get_num_threads())
    images = _images(dataclasses.replace(settings, channels_last=False))
    try:
        run(images)
    except Exception:  # each runtime refuses another input type in its own words
        images = (images * 58 + 114).clamp(0, 255).to(torch.uint8)
    return lambda: run(images)


class _Contest:
    """The contenders of one model: rows whose times are still to come."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.runs: dict[str, Callable[[], Any]] = {}

    def enter(self, row: Row, make: Callable[[], Callable[[], Any]]) -> None:
        """Built, warmed up, and in; or out, with the reason."""
        try:
            run = make()
            for _ in range(WARM_UPS):
                run()
        except Exception as error:  # of any library: it is reported, and the others still race
            first = (str(error).strip() or "no message").splitlines()[0]
            self.rows.append(dataclasses.replace(row, failed=f"{type(error).__name__}: {first}"))
            return
        self.runs[f"{row.name} {row.way}"] = run
        self.rows.append(row)

    def timed(self, settings: Settings) -> list[Row]:
        times = interleave(self.runs, settings.device, settings.rounds, LatencyClock(settings.device))
        measurable = memory.why_not(settings.device) is None
        return [
            row
            if row.failed
            else dataclasses.replace(
                row,
                times=times[key],
                peak_extra=memory.peak_extra(self.runs[key], settings.device) if measurable else None,
            )
            for row in self.rows
            for key in [f"{row.name} {row.way}"]
        ]


def judge(rows: list[Row], settings: Settings) -> list[Verdict]:
    ways = {row.way: row for row in rows if row.times and row.way != "peer"}
    verdicts = []
    eager, compiled = (ways.get(way) for way in (EAGER, COMPILED))
    if eager and compiled and eager.times and compiled.times:
        reached = eager.times.median / compiled.times.median
        wanted = COMPILED_TARGET if eager.name == "bisenet_r18" and not settings.train else 1.0
        verdicts.append(Verdict(f"{eager.name} compiled at least {wanted:g}x eager", reached, reached >= wanted))
    if CHANNELS_LAST in ways and compiled and compiled.times and (last := ways[CHANNELS_LAST].times):
        reached = last.median / compiled.times.median
        text = f"{compiled.name} compiled not slower than eager in its layout, channels last"
        verdicts.append(Verdict(text, reached, reached >= 1.0))
    for peer in rows:
        if peer.way != "peer" or not (peer.times and eager and eager.times and peer.arithmetic and eager.arithmetic):
            continue
        reached = peer.times.median / eager.times.median
        share = peer.arithmetic.macs / eager.arithmetic.macs
        if share < LEAST_WORK:
            continue
        text = f"{eager.name} eager not slower than {peer.name}"
        if share < SAME_WORK:
            reached /= share
            text += f" per multiply-add (it does {share:.2f} of them)"
        verdicts.append(Verdict(text, reached, reached >= 1.0))
    exported = ("onnx", "torch-export")
    served = [row for row in rows if row.way in exported and row.times]
    others = [row.times.median for way, row in ways.items() if row.times and way not in exported]
    if served and others:  # one format that wins is enough: it is the one to serve
        best = min(served, key=lambda row: row.times.median if row.times else 0.0)
        assert best.times
        reached = min(others) / best.times.median
        verdicts.append(Verdict(f"{best.name} ({best.way}) faster than every other way", reached, reached >= 1.0))
    return verdicts


def profile(name: str, settings: Settings, exported: list[Path]) -> Result:
    """exported: files that `dgseg export` made of this model, timed beside it."""
    gc.collect()
    torch.compiler.reset()
    contest = _Contest()
    images = _images(settings)
    model, notes = _ours(name, settings)
    with torch.device("meta"):
        trainable = parameters(build(name, settings.num_classes, **settings.options))
    _, cost = _counted(lambda: build(name, settings.num_classes, **settings.options), settings)
    row = Row(name, EAGER, trainable, cost)

    def way(module: nn.Module, compiled: bool = False) -> Callable[[], Callable[[], Any]]:
        def make() -> Callable[[], Any]:
            placed = _placed(module, settings)
            if not compiled:
                return _call(placed, placed, images, settings)
            if settings.train:
                return _call(torch.compile(placed, fullgraph=True), placed, images, settings)
            # As for serving: without features, which would each have to be laid out for the caller; and on a CPU with
            # constant weights in the layout that its convolutions are fastest in, whatever the images' own.
            options: dict[str, Any] | None = None
            if on_cpu:
                options = {"freezing": True}
                placed = placed.to(memory_format=torch.channels_last)
            whole = Graph(placed, "logits") if isinstance(placed, SegmentationModel) else placed
            forward = torch.compile(whole, fullgraph=True, options=options)
            return _call(forward, placed, images, settings)

        return make

    contest.enter(row, way(model))
    on_cpu = settings.device.type == "cpu"
    if settings.compile and on_cpu and not (settings.train or settings.channels_last):
        # The compiled row's layout without its compiler: what of its gain is whose.
        changed = dataclasses.replace(settings, channels_last=True)
        last = _placed(copy.deepcopy(model), changed)
        contest.enter(dataclasses.replace(row, way=CHANNELS_LAST), lambda: _call(last, last, _images(changed), changed))
    served: nn.Module = model
    if settings.fold and not settings.train:
        served, folded = fold_batch_norms(copy.deepcopy(model).to(memory_format=torch.contiguous_format))
        notes.append(f"folded: {folded} batch normalisations became part of their convolutions")
        contest.enter(dataclasses.replace(row, way=FOLDED), way(served))
    if settings.compile:
        contest.enter(dataclasses.replace(row, way=COMPILED), way(copy.deepcopy(served), compiled=True))
    for path in exported:
        kind = "onnx" if path.suffix == ".onnx" else "torch-export"
        contest.enter(dataclasses.replace(row, name=path.name, way=kind), partial(_exported, path, settings))
    for peer in peers(name) if settings.peers else []:
        torch.manual_seed(0)
        make = partial(peer.build, settings.num_classes)
        peer_parameters, peer_cost = _counted(make, settings)
        contest.enter(Row(peer.name, "peer", peer_parameters, peer_cost), way(make()))
        share = peer_cost.macs / cost.macs
        if share < LEAST_WORK:
            notes.append(f"{peer.name} does {share:.2f} of its multiply-adds, a part of it: shown, not compared")
    if settings.peers and not peers(name):
        notes.append("transformers, segmentation-models-pytorch and timm have no equivalent of it")
    if settings.compile and not settings.train:
        what = "of the folded model, " if settings.fold else ""
        layout = ", with constant weights, channels last" if on_cpu else ""
        notes.append(f"compiled: {what}logits alone{layout}")
    rows = contest.timed(settings)
    if reason := memory.why_not(settings.device):
        notes.append(reason)
    notes += model_papers.notes(name, settings.size, trainable, cost, model.published_surplus(*settings.size))
    return Result(name, rows, judge(rows, settings), model_papers.TABLES.get(name, []), notes)
