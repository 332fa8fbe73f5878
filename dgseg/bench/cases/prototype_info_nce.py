"""Forward and backward of the prototype contrast, every pixel of a feature map in some band."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.bench import inputs
from dgseg.bench.case import OURS, Builder, Case, Contender, Floor, Size, Target
from dgseg.bench.cases import peers

TEMPERATURE = 0.07
BANDS = 3


def banded(N: int, h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Labels without an ignored pixel, and bands that leave no pixel out."""
    labels = inputs.label_map(N, h, w)
    bands = torch.randint(1, BANDS + 1, (N, h, w), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return labels.to(device), bands.to(device)


def eager(features: Tensor, target: Tensor, prototypes: Tensor, weights: Tensor) -> Tensor:
    """Normalise, gather to pixels x channels, similarities, weighted cross-entropy; target is the int64 prototype
    index of every pixel."""
    pixels = F.normalize(features.float(), dim=1).permute(0, 2, 3, 1).reshape(target.numel(), -1)
    similarity = pixels @ F.normalize(prototypes.flatten(0, 1), dim=1).T / TEMPERATURE
    loss = F.cross_entropy(similarity, target, reduction="none")
    return (loss * weights.flatten()[target]).mean()


def _case(device: torch.device, size: Size, trained: bool = False) -> Case:
    N, D, h, w = (4, 256, 128, 128) if size == "table" else (2, 16, 9, 11)
    labels, bands = banded(N, h, w, device)
    features = inputs.features(N, D, h, w).to(device)
    features = (inputs.as_trained(features) if trained else features).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    prototypes = torch.randn(inputs.CLASSES, BANDS, D, generator=generator).to(device)
    weights = (0.1 + 0.9 * torch.rand(inputs.CLASSES, BANDS, generator=generator)).to(device)
    target = (labels.long() * BANDS + bands.long() - 1).flatten()  # made beforehand, in the peers' favour
    op = peers.operator("prototype_info_nce")
    compiled = peers.compiled(eager)
    P, K = target.numel(), inputs.CLASSES * BANDS

    def step(function: Any, features: Tensor, *arguments: Tensor, **options: float) -> tuple[Tensor, Tensor]:
        loss = function(features, *arguments, **options)
        return loss.detach(), torch.autograd.grad(loss, features)[0]

    def named(found: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": found[0], "gradient": found[1]}

    def ours(function: Any, features: Tensor, prototypes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return step(function, features, labels, bands, prototypes, weights, temperature=TEMPERATURE)

    def truth() -> dict[str, Tensor]:
        wide = features.detach().double().requires_grad_()
        return named(ours(op.reference, wide, prototypes.double(), weights.double()))

    gpu = device.type == "cuda"
    nbytes = features.detach().nbytes
    layout = "bf16 channels_last" if trained else "NCHW"
    targets = [Target("speed", 1.3 if gpu else 1.8, "torch.compile")]
    if not gpu:
        targets.append(Target("speed", 4.5, "eager"))
    targets.append(Target("memory", 1.2, "the feature gradient", bytes=nbytes))
    if trained and not gpu:
        targets = []  # stated for what a GPU trains
    rows, columns = torch.randn(P, D, device=device), torch.randn(D, K, device=device)
    return Case(
        op="prototype_info_nce",
        title=f"forward + backward, {P:,} pixels x {D} x {K}, {layout} features {N}x{D}x{h}x{w}",
        ours=Contender(OURS, lambda: ours(op, features, prototypes, weights), named),
        peers=[
            Contender("torch.compile", lambda: step(compiled, features, target, prototypes, weights), named),
            Contender("eager", lambda: step(eager, features, target, prototypes, weights), named),
            Contender("one GEMM", lambda: rows @ columns, None),
        ],
        truth=truth,
        tolerances={"loss": 1e-5, "gradient": 1e-2 if trained else 1e-3 if gpu else 1e-4},
        floor=Floor("two products; features read, gradient written", bytes=2 * nbytes, flops=4 * P * D * K),
        targets=targets,
    )


CASES: list[Builder] = [_case, lambda device, size: _case(device, size, trained=True)]
