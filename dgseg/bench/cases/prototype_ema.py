"""One update of the prototype bank in `pixel` mode, every pixel of a feature map in some band."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.bench import inputs
from dgseg.bench.case import OURS, Builder, Case, Contender, Floor, Size, Target
from dgseg.bench.cases import peers
from dgseg.bench.cases.prototype_info_nce import BANDS, banded

MOMENTUM = 0.99


def closed_form(prototypes: Tensor, updates: Tensor, features: Tensor, target: Tensor, keys: Tensor) -> None:
    """p' = m^n p + (1-m) sum_j m^(n-1-j) f_j for all prototypes at once, the pixels f of each in the order of
    their keys; prototypes [K, D] and updates [K] in place, target the int64 prototype index of every pixel. The sum
    is a matrix product with the weights, which take the norms too: neither gathering nor normalising the features
    was found faster."""
    N, D, h, w = features.shape
    order = keys.argsort()
    order = order[target[order].argsort(stable=True)]
    cell = target[order]
    count = torch.zeros_like(updates).scatter_add(0, target, torch.ones_like(target))
    newer = count.cumsum(0)[cell] - 1 - torch.arange(len(cell), device=cell.device)
    weights = torch.zeros(len(prototypes), len(target), device=cell.device)
    weights[cell, order] = (1 - MOMENTUM) * MOMENTUM ** newer.to(weights.dtype)
    norms = features.norm(dim=1).clamp(min=1e-12).view(N, 1, h * w)
    weights_NKP = weights.view(-1, N, h * w).transpose(0, 1) / norms
    sums = torch.bmm(weights_NKP, features.view(N, D, h * w).transpose(1, 2)).sum(0)
    prototypes.mul_((MOMENTUM ** count.to(weights.dtype))[:, None]).add_(sums)
    updates.add_(count)


def _case(device: torch.device, size: Size) -> Case:
    from dgseg.ops.prototype_ema.order import pixel_keys

    N, D, h, w = (4, 256, 128, 128) if size == "table" else (2, 16, 9, 11)
    labels, bands = banded(N, h, w, device)
    features = inputs.features(N, D, h, w).to(device)
    generator = torch.Generator().manual_seed(4)
    prototypes = F.normalize(torch.randn(inputs.CLASSES, BANDS, D, generator=generator), dim=2).to(device)
    updates = torch.ones(inputs.CLASSES, BANDS, dtype=torch.int64, device=device)
    ids = torch.arange(N, device=device)
    target = (labels.long() * BANDS + bands.long() - 1).flatten()  # made beforehand, in the peers' favour
    keys = pixel_keys(ids, 0, 0, h, w).flatten()  # likewise
    op = peers.operator("prototype_ema_")

    def ours(function: Callable[..., None], prototypes: Tensor, features: Tensor) -> dict[str, Tensor]:
        bank, seen = prototypes.clone(), updates.clone()
        function(bank, seen, features, labels, bands, momentum=MOMENTUM, mode="pixel", seed=0, step=0, sample_ids=ids)
        return {"prototypes": bank, "updates": seen}

    def peer(function: Callable[..., None]) -> dict[str, Tensor]:
        bank, seen = prototypes.clone(), updates.clone()
        function(bank.flatten(0, 1), seen.flatten(), features, target, keys)
        return {"prototypes": bank, "updates": seen}

    def itself(found: dict[str, Tensor]) -> dict[str, Tensor]:
        return found

    contenders = [Contender("closed form", lambda: peer(closed_form), itself)]
    if device.type == "cuda":
        compiled = peers.compiled(closed_form)
        contenders.append(Contender("torch.compile", lambda: peer(compiled), itself))
        targets = [Target("speed", 2, "torch.compile"), Target("floor", 1 / 0.85)]
    else:
        targets = [Target("speed", 3, "closed form")]
    return Case(
        op="prototype_ema_",
        title=f"pixel mode, {target.numel():,} pixels x {D}, {inputs.CLASSES * BANDS} prototypes",
        ours=Contender(OURS, lambda: ours(op, prototypes, features), itself),
        peers=contenders,
        truth=lambda: ours(op.reference, prototypes.double(), features.double()),
        tolerances={"prototypes": 1e-4, "updates": 0.0},
        floor=Floor("features, labels and bands read once", bytes=features.nbytes + 2 * target.numel()),
        targets=targets,
    )


CASES: list[Builder] = [_case]
