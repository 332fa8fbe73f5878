"""What FLEX-Seg costs beside plain cross-entropy in a training step: ours and the same losses from plain torch.

The loss part (predictions in, gradients of logits and features out, state moved) is timed by itself, because the whole
step varies by more than it costs; the step is timed too. Everything in turns, in one process.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgseg.bench import inputs, memory
from dgseg.bench.plain_flex_seg import PlainCrossEntropy, PlainFlexSeg
from dgseg.bench.timing import Times, clock, interleave
from dgseg.data.sample import Batch
from dgseg.models import build
from dgseg.models.prediction import Prediction
from dgseg.objectives import (
    ORIGINAL,
    BoundaryEmphasis,
    CrossEntropy,
    Objectives,
    PrototypeContrast,
    StepContext,
)

PLAIN_CE, TORCH_CE, FLEX_SEG, TORCH_FLEX_SEG = "CE, dgseg", "CE, torch", "FLEX-Seg, dgseg", "FLEX-Seg, torch"
TOLERANCE = 1e-4  # relative, of every term after two steps
IGNORED = 0.02  # of the labels


@dataclass(frozen=True)
class StepCase:
    name: str
    model: str
    size: tuple[int, int]
    batch: int
    dim: int  # of the prototypes
    most: float  # accepted cost of FLEX-Seg over plain cross-entropy, as a share of the step


CASES = {
    case.name: case
    for case in (
        StepCase("streets", "bisenet_mini", (192, 384), 8, 64, 0.15),
        StepCase("daformer", "daformer_mitb5", (512, 512), 2, 256, 0.02),
    )
}


@dataclass(frozen=True)
class StepResult:
    case: StepCase
    loss: dict[str, Times]
    step: dict[str, Times]
    peak_extra: dict[str, int]  # of the loss part
    notes: list[str]

    def cost(self, name: str, over: str) -> float:
        """Of the loss part, over another loss part, as a share of the step with the latter."""
        return (self.loss[name].median - self.loss[over].median) / self.step[over].median


def contenders(model: Any, case: StepCase, device: torch.device) -> dict[str, nn.Module]:
    gap = PrototypeContrast(PrototypeContrast.Config(dim=case.dim), model)
    found: dict[str, nn.Module] = {
        PLAIN_CE: Objectives({"ce": CrossEntropy.Config().build(model)}),
        TORCH_CE: PlainCrossEntropy(),
        FLEX_SEG: Objectives({"ube": BoundaryEmphasis.Config().build(model), "gap": gap}),
        TORCH_FLEX_SEG: PlainFlexSeg(gap.projection, model.num_classes, case.dim, gap.config.radii),
    }
    return {name: module.to(device).train() for name, module in found.items()}


def batch(case: StepCase, device: torch.device) -> Batch:
    H, W = case.size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (case.batch, 3, H, W), generator=generator, dtype=torch.uint8)
    labels = inputs.label_map(case.batch, H, W, ignored=IGNORED)
    numbers = torch.arange(case.batch)
    return Batch(images, labels, [str(i) for i in range(case.batch)], numbers, numbers, numbers * 0).to(device)


def leaves_of(prediction: Prediction) -> tuple[Prediction, list[Tensor]]:
    """The same prediction, detached, and what the losses' gradients go to."""
    logits = prediction.logits.detach().requires_grad_()
    decoder = prediction.features["decoder"].detach().requires_grad_()
    aux = [one._replace(logits=one.logits.detach().requires_grad_()) for one in prediction.aux]
    return Prediction(logits, {"decoder": decoder}, aux, prediction.extra), [
        logits,
        decoder,
        *(one.logits for one in aux),
    ]


def loss_part(module: nn.Module, prediction: Prediction, data: Batch) -> Callable[[], Any]:
    """The graph to the projection counts as part of the losses."""
    prediction, leaves = leaves_of(prediction)

    def run() -> Any:
        terms = module({ORIGINAL: prediction}, data, StepContext(0, 1))
        total = torch.stack([term.float() for term in terms.values()]).sum()
        wanted = [*leaves, *module.parameters()]
        return terms, torch.autograd.grad(total, wanted, allow_unused=True)

    return run


def whole_step(model: nn.Module, module: nn.Module, data: Batch) -> Callable[[], Any]:
    parameters = [*model.parameters(), *module.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.0)  # the same model for all: no step changes it

    def run() -> None:
        optimizer.zero_grad()
        terms = module({ORIGINAL: model(data.images)}, data, StepContext(0, 1))
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        optimizer.step()

    return run


def taken_in_turns(runs: dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, Times]:
    """One sample a turn and one warm-up for all: a step of a large model takes many seconds."""
    timer = clock(device)
    next(iter(runs.values()))()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            samples[name].append(timer.sample(run))
    return {name: Times.of(found) for name, found in samples.items()}


def disagreement(runs: dict[str, Callable[[], Any]]) -> str | None:
    """After two steps, so that the bank has been filled by the first. Ours and torch's must say the same."""
    for ours, theirs in ((PLAIN_CE, TORCH_CE), (FLEX_SEG, TORCH_FLEX_SEG)):
        for _ in range(2):
            (terms, gradients), (expected, others) = runs[ours](), runs[theirs]()
        for name, value in terms.items():
            if not torch.allclose(value, expected[name], rtol=TOLERANCE, atol=1e-6):
                return f"{ours} has {name} = {value.item():.6g}, {theirs} {expected[name].item():.6g}"
        for number, (mine, other) in enumerate(zip(gradients, others, strict=True)):
            if mine is not None and (mine - other).abs().max() > 1e-3 * other.abs().max():
                return f"{ours} and {theirs} differ in gradient {number}"
    return None


def run_case(
    case: StepCase,
    device: torch.device,
    loss_rounds: int,
    step_rounds: int,
    say: Callable[[str], None] = lambda line: None,
) -> StepResult:
    """say: is told what is done and what comes, because the steps of a large model take long."""
    torch.manual_seed(0)
    model = build(case.model).to(device).train()
    data = batch(case, device)
    modules = contenders(model, case, device)
    with torch.no_grad():
        prediction = model(data.images)
    losses = {name: loss_part(module, prediction, data) for name, module in modules.items()}
    if wrong := disagreement(losses):
        raise RuntimeError(f"no speed is reported: {wrong}")
    loss_times = interleave(losses, device, loss_rounds)
    medians = "; ".join(f"{name} {times.median * 1e3:.1f}" for name, times in loss_times.items())
    say(f"{case.model}: terms and gradients agree; loss parts in ms: {medians}. Now the steps …")
    notes, peaks = [], {}
    if reason := memory.why_not(device):
        notes.append(reason)
    else:
        peaks = {name: sorted(memory.peak_extra(run, device) for _ in range(3))[1] for name, run in losses.items()}
    steps = {name: whole_step(model, module, data) for name, module in modules.items()}
    step_times = taken_in_turns(steps, device, step_rounds)
    return StepResult(case, loss_times, step_times, peaks, notes)


def text(result: StepResult) -> str:
    case = result.case
    lines = [
        "",
        f"{case.model}, {case.batch} x {case.size[0]}x{case.size[1]}, prototypes of {case.dim}",
        f"    {'':18}{'loss part ms':>14}{'p90':>9}{'whole step ms':>16}{'p90':>10}{'cost of step':>14}"
        f"{'loss part MB':>14}",
    ]
    for name, loss in result.loss.items():
        step = result.step[name]
        extra = f"{result.peak_extra[name] / 1e6:.1f}" if name in result.peak_extra else "-"
        lines.append(
            f"    {name:18}{loss.median * 1e3:14.2f}{loss.p90 * 1e3:9.2f}{step.median * 1e3:16.1f}"
            f"{step.p90 * 1e3:10.1f}{f'{100 * result.cost(name, PLAIN_CE):+.2f} %':>14}{extra:>14}"
        )
    lines.append(f"    (cost of step: the loss part over that of {PLAIN_CE!r}, as a share of the whole step with it)")
    cost = result.cost(FLEX_SEG, PLAIN_CE)
    judged = "OK" if cost <= case.most else "ABOVE"
    lines.append(
        f"    target: FLEX-Seg costs at most {100 * case.most:g} % of the step over plain CE"
        f"{f'{100 * cost:.2f} %':>14}  {judged}"
    )
    if result.peak_extra:
        ratio = result.peak_extra[FLEX_SEG] / max(result.peak_extra[TORCH_CE], 1)
        lines.append(
            f"    target: its losses take less memory than CE on upsampled logits {f'{ratio:.2f}x':>20}  "
            f"{'OK' if ratio < 1 else 'ABOVE'}"
        )
    lines += [f"    note: {note}" for note in result.notes]
    return "\n".join(lines)


def as_json(result: StepResult) -> dict[str, Any]:
    return dataclasses.asdict(result) | {
        "cost_over_plain_ce": {name: result.cost(name, PLAIN_CE) for name in result.loss}
    }
