"""Forward and backward of focal and Dice loss, mixed half and half, from full-resolution logits and at stride 4."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.bench import inputs
from dgseg.bench.case import OURS, Builder, Case, Contender, Floor, Size, Target
from dgseg.bench.cases import peers


def eager(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same losses composed of torch's own operators; labels int64."""
    logits = logits.float()  # as autocast does
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    log_p = F.log_softmax(logits, 1)
    valid = labels != inputs.IGNORED
    own = torch.where(valid, labels, 0)[:, None]
    own_log_p = log_p.gather(1, own)[:, 0]
    own_p = own_log_p.exp() * valid
    focal = torch.where(valid, -(1 - own_p) * own_log_p, 0).sum() / valid.sum()
    classes = logits.shape[1]
    where = own.flatten()
    intersection = own_p.new_zeros(classes).index_add(0, where, own_p.flatten())
    pixels = own_p.new_zeros(classes).index_add(0, where, valid.flatten().to(own_p.dtype))
    probability = (log_p.exp() * valid[:, None]).sum((0, 2, 3))
    present = pixels > 0
    dice = 1 - (2 * intersection + 1) / (probability + pixels + 1)
    return focal, torch.where(present, dice, 0).sum() / present.sum()


def _case(device: torch.device, size: Size, stride: int, trained: bool = False) -> Case:
    N, H, W = (2, 512, 512) if size == "table" else (2, 40, 36)
    labels = inputs.label_map(N, H, W, ignored=0.02).to(device)
    logits = inputs.logits(N, H // stride, W // stride, smooth=False).to(device)
    logits = (inputs.as_trained(logits) if trained else logits).requires_grad_()
    wide_labels = labels.long()  # what gather takes: converted beforehand, in the peers' favour
    op = peers.operator("focal_dice")
    compiled = peers.compiled(eager)

    def step(function: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        focal, dice = function(logits, labels)
        return focal.detach(), dice.detach(), torch.autograd.grad(0.5 * focal + 0.5 * dice, logits)[0]

    def named(found: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(zip(("focal", "dice", "gradient"), found, strict=True))

    def truth() -> dict[str, Tensor]:
        return named(step(op.reference, logits.detach().double().requires_grad_(), labels))

    data = logits.detach()
    layout = "bf16 channels_last" if trained else "fp32"
    gpu = device.type == "cuda"
    small = 2 * labels.numel() * 5  # labels and log-sum-exp, in both passes
    if stride > 1:
        floor = Floor(
            "logits read twice, gradient written; a lerp and an exp (5 FMAs) per value and pass",
            bytes=3 * data.nbytes + small,
            flops=2 * 12 * inputs.CLASSES * labels.numel(),
        )
        targets = [Target("speed", 4, "eager"), Target("memory", 0.1, "eager")]
    elif gpu:
        floor = Floor("logits read twice, gradient written", bytes=3 * data.nbytes + small)
        targets = [Target("speed", 4, "eager")]
    else:
        floor = Floor("one pass of reading the logits and one clone of them", run=lambda: (data.sum(), data.clone()))
        targets = [Target("speed", 4, "eager")]
    if trained and not gpu:
        targets = []  # stated for what a GPU trains
    return Case(
        op="focal_dice",
        title=f"forward + backward, {'x'.join(map(str, data.shape))} {layout} logits, labels {N}x{H}x{W}",
        ours=Contender(OURS, lambda: step(op, logits, labels), named),
        peers=[
            Contender("torch.compile", lambda: step(compiled, logits, wide_labels), named),
            Contender("eager", lambda: step(eager, logits, wide_labels), named),
        ],
        truth=truth,
        tolerances={"focal": 1e-5, "dice": 1e-5, "gradient": 1e-2 if trained else 1e-4},
        floor=floor,
        targets=targets,
    )


CASES: list[Builder] = [
    lambda device, size: _case(device, size, stride=1),
    lambda device, size: _case(device, size, stride=4),
    lambda device, size: _case(device, size, stride=4, trained=True),
    lambda device, size: _case(device, size, stride=1, trained=True),
]
