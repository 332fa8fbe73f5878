"""focal_dice in plain torch, written from its definition; torch derives its gradient."""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dgseg.ops import _checks, across_ranks


class FocalDice(NamedTuple):
    focal: Tensor  # 0-d
    dice: Tensor  # 0-d; each has a gradient of its own


def losses_of(
    sums: Tensor, class_weight: Tensor | None, smooth: float, group: dist.ProcessGroup | None, dtype: torch.dtype
) -> FocalDice:
    """Both losses from a rank's sums, float64 [4, C]: per class its pixels' focal loss and own probability (the
    intersection), all pixels' probability, and its number of pixels."""
    gathered = across_ranks.gather(sums.flatten(), group)
    ranks = len(gathered)
    total = gathered.sum(0).view_as(sums)
    pixels = total[3]
    weight = pixels.new_ones(1) if class_weight is None else class_weight.double()
    of_focal, of_dice = weight.expand(2, len(pixels))
    focal = ranks * (of_focal * sums[0]).sum() / pixels.sum().clamp(min=1)

    # The whole batch's sums; their gradient is world_size times this rank's, because ranks average gradients.
    shared = total + ranks * (sums - sums.detach())
    present = pixels > 0
    extent = torch.where(present, shared[2] + pixels + smooth, 1.0)
    dice = 1 - (2 * shared[1] + smooth) / extent
    share = torch.where(present, of_dice, 0.0)
    total_share = share.sum()
    mean = torch.where(present, share * dice, 0.0).sum() / torch.where(total_share > 0, total_share, 1.0)
    return FocalDice(focal.to(dtype), mean.to(dtype))


def focal_dice_reference(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.0,
    smooth: float = 1.0,
    class_weight: Tensor | None = None,
    ignore_index: int = 255,
    group: dist.ProcessGroup | None = None,
) -> FocalDice:
    classes = logits.shape[1]
    if not torch.compiler.is_compiling():
        _checks.check_label_values(labels, classes, ignore_index)
    labels = labels.long()
    valid = (labels != ignore_index) & (labels >= 0) & (labels < classes)
    scores = logits.double() if logits.dtype == torch.float64 else logits.float()
    if scores.shape[-2:] != labels.shape[-2:]:
        scores = F.interpolate(scores, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    # Ignored pixels leave the graph here: whatever their logits hold, their loss and gradient are 0.
    log_p = F.log_softmax(scores.masked_fill(~valid[:, None], 0.0), dim=1)
    p = torch.where(valid[:, None], log_p.exp(), 0.0)
    truth = F.one_hot(torch.where(valid, labels, 0), classes).movedim(-1, 1) * valid[:, None]

    cross_entropy = torch.where(valid, -log_p.gather(1, torch.where(valid, labels, 0)[:, None])[:, 0], 0.0)
    rest = -torch.expm1(-cross_entropy)  # 1 - p of the own class
    # At p = 1 the loss is 0 and so is its slope (gamma > 0), while that of the power alone may be infinite.
    certain = rest == 0
    focal = torch.where(certain, cross_entropy, torch.where(certain, 1.0, rest).pow(gamma) * cross_entropy)

    each = [focal[:, None] * truth, p * truth, p, truth]
    sums = torch.stack([one.double().sum((0, 2, 3)) for one in each])
    return losses_of(sums, class_weight, smooth, group, scores.dtype)
