"""entropy_weighted_cross_entropy in plain torch, written from its definition; torch derives its gradient."""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dgseg.ops import _checks, across_ranks


class EntropyWeightedLoss(NamedTuple):
    loss: Tensor  # 0-d, with gradient
    per_image: Tensor  # [N], mean unweighted cross-entropy over the image's valid pixels, 0 where it has none
    band_entropy: Tensor  # 0-d, mean entropy over the band of all ranks, 0 where it is empty


def entropy_weighted_cross_entropy_reference(
    logits: Tensor,
    labels: Tensor,
    bands: Tensor | None,
    *,
    alpha: float = 3.0,
    weighting: str = "entropy",
    threshold: float | None = None,
    eps: float = 1e-6,
    ignore_index: int = 255,
    class_weight: Tensor | None = None,
    denominator: str = "valid",
    group: dist.ProcessGroup | None = None,
) -> EntropyWeightedLoss:
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
    own = log_p.gather(1, torch.where(valid, labels, 0)[:, None])[:, 0]
    cross_entropy = torch.where(valid, -own, 0.0)

    with torch.no_grad():
        band = valid & (bands > 0) if bands is not None else torch.zeros_like(valid)
        p = log_p.exp()
        entropy = -torch.where(p == 0, 0.0, p * log_p).sum(1)  # 0 log 0 = 0, also for a logit of -inf
        in_band = torch.where(band, entropy, 0.0).double()
        count = band.sum().double()
        mean = in_band.sum() / count.clamp(min=1)
        squares = torch.where(band, in_band - mean, 0.0).square().sum()
        pixels = valid.sum().double() if denominator == "valid" else torch.full_like(count, labels.numel())
        moments = across_ranks.gather(torch.stack([pixels, count, mean, squares]), group)
        pixels, counts, means, deviations = moments.unbind(1)
        # The ranks' bands merge into one: its variance is the mean within the ranks plus that between them.
        band_size = counts.sum().clamp(min=1)
        band_mean = (counts * means).sum() / band_size
        variance = (deviations + counts * (means - band_mean).square()).sum() / band_size

        weights = torch.ones_like(cross_entropy)
        if weighting == "entropy":
            standardised = (entropy - band_mean) / (variance.sqrt() + eps)
            weights = torch.where(band, 1 + alpha * torch.sigmoid(standardised.to(scores.dtype)), weights)
        elif weighting == "fixed":
            weights = weights.masked_fill(band, alpha)
        else:
            assert threshold is not None
            weights = weights.masked_fill(band & (cross_entropy > threshold), alpha)
        if class_weight is not None:
            weights = weights * class_weight.to(scores.dtype)[torch.where(valid, labels, 0)]
        ranks, total = len(pixels), pixels.sum()
        scale = torch.where(total > 0, ranks / total, 0.0)
        weights = torch.where(valid, weights * scale.to(scores.dtype), 0.0)
        per_image = cross_entropy.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)

    loss = (weights * cross_entropy).sum()
    return EntropyWeightedLoss(loss, per_image, band_mean.to(scores.dtype))
