"""segmentation_counts in plain torch, written from its definition."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.ops import _checks


def segmentation_counts_reference(
    logits: Tensor, labels: Tensor, *, num_classes: int, ignore_index: int = 255
) -> Tensor:
    counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=logits.device)
    if labels.numel() == 0:
        return counts
    labels = labels.long()
    _checks.check_label_values(labels, num_classes, ignore_index)
    if logits.dtype != torch.float64:
        logits = logits.float()
    if logits.shape[2:] != labels.shape[1:]:
        logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    prediction = logits.argmax(1)
    valid = labels != ignore_index
    pair = labels[valid] * (num_classes + 1) + prediction[valid]
    # unique sorts; bincount has no deterministic CUDA version.
    kinds, numbers = torch.unique(pair, return_counts=True)
    counts.view(-1)[kinds] = numbers
    return counts
