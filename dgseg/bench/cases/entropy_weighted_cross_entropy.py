"""Forward and backward of the entropy-weighted loss, from full-resolution logits and from logits at stride 4."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.bench import inputs
from dgseg.bench.case import OURS, Builder, Case, Contender, Floor, Size, Target
from dgseg.bench.cases import peers

ALPHA, EPS = 3.0, 1e-6


def eager(logits: Tensor, labels: Tensor, bands: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same loss composed of torch's own operators; labels int64."""
    logits = logits.float()  # as autocast does
    if logits.shape[-2:] != labels.shape[-2:]:
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    log_p = F.log_softmax(logits, 1)
    nll = F.nll_loss(log_p, labels, ignore_index=inputs.IGNORED, reduction="none")
    valid = labels != inputs.IGNORED
    with torch.no_grad():
        entropy = -(log_p.exp() * log_p).sum(1)
        band = valid & (bands > 0)
        count = band.sum()
        mean = torch.where(band, entropy, 0).sum() / count
        deviation = (torch.where(band, entropy - mean, 0).square().sum() / count).sqrt()
        weight = torch.where(band, 1 + ALPHA * torch.sigmoid((entropy - mean) / (deviation + EPS)), 1)
        per_image = nll.sum((1, 2)) / valid.sum((1, 2))
    return (nll * weight).sum() / valid.sum(), per_image, mean


def _case(device: torch.device, size: Size, stride: int, trained: bool = False) -> Case:
    N, H, W = (2, 512, 512) if size == "table" else (2, 40, 36)
    labels = inputs.label_map(N, H, W, ignored=0.02).to(device)
    bands = peers.operator("boundary_bands").reference(labels, (3,))
    logits = inputs.logits(N, H // stride, W // stride, smooth=False).to(device)
    logits = (inputs.as_trained(logits) if trained else logits).requires_grad_()
    wide_labels = labels.long()  # what nll_loss takes: converted beforehand, in the peers' favour
    op = peers.operator("entropy_weighted_cross_entropy")
    compiled = peers.compiled(eager)

    def step(function: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        loss, per_image, entropy = function(logits, labels, bands)
        return loss.detach(), per_image, entropy, torch.autograd.grad(loss, logits)[0]

    def named(found: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(zip(("loss", "per_image", "band_entropy", "gradient"), found, strict=True))

    def truth() -> dict[str, Tensor]:
        return named(step(op.reference, logits.detach().double().requires_grad_(), labels))

    data = logits.detach()
    layout = "bf16 channels_last" if trained else "fp32"
    gpu = device.type == "cuda"
    small = 2 * 2 * labels.numel()  # labels and bands, in both passes
    if stride > 1:
        floor = Floor(
            "logits read twice, gradient written; a lerp and an exp (5 FMAs) per value and pass",
            bytes=3 * data.nbytes + small,
            flops=2 * 12 * inputs.CLASSES * labels.numel(),
        )
        targets = [Target("speed", 5 if gpu else 10, "eager"), Target("memory", 0.1, "eager")]
        if not gpu:
            targets.insert(1, Target("speed", 10, "torch.compile"))
    elif gpu:
        floor = Floor("logits read twice, gradient written", bytes=3 * data.nbytes + small)
        targets = [Target("speed", 2, "torch.compile"), Target("floor", 1 / 0.85)]
    else:
        floor = Floor("one pass of reading the logits and one clone of them", run=lambda: (data.sum(), data.clone()))
        targets = [Target("speed", 2.2, "torch.compile"), Target("speed", 5, "eager"), Target("floor", 1.5)]
    if trained and not gpu:
        targets = []  # stated for what a GPU trains
    return Case(
        op="entropy_weighted_cross_entropy",
        title=f"forward + backward, {'x'.join(map(str, data.shape))} {layout} logits, labels {N}x{H}x{W}",
        ours=Contender(OURS, lambda: step(op, logits, labels), named),
        peers=[
            Contender("torch.compile", lambda: step(compiled, logits, wide_labels), named),
            Contender("eager", lambda: step(eager, logits, wide_labels), named),
        ],
        truth=truth,
        tolerances={"loss": 1e-5, "per_image": 1e-5, "band_entropy": 1e-5, "gradient": 1e-2 if trained else 1e-4},
        floor=floor,
        targets=targets,
    )


CASES: list[Builder] = [
    lambda device, size: _case(device, size, stride=1),
    lambda device, size: _case(device, size, stride=4),
    lambda device, size: _case(device, size, stride=4, trained=True),
    lambda device, size: _case(device, size, stride=1, trained=True),
]
