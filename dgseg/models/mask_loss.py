"""Mask2Former's loss: each image's classes are matched with queries, and every matched query learns its class and its
mask. The matching and the point sampling are transformers'; around them: label maps in, full precision, seeded
points, denominators over the process group."""

import functools
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dgseg.models.prediction import Prediction
from dgseg.ops import across_ranks


def targets(labels_NHW: Tensor, num_classes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Per image the masks [K, H, W] and classes [K] of those of its classes that occur. Pixels of other labels (255,
    254) lie in no mask; an image without any labelled pixel has K = 0."""
    masks, classes = [], []
    for labels in labels_NHW.long():
        present = labels.unique()
        present = present[(present >= 0) & (present < num_classes)]
        masks.append((labels == present[:, None, None]).float())
        classes.append(present)
    return masks, classes


@functools.cache
def _criterion_class() -> Any:
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    class Criterion(Mask2FormerLoss):  # type: ignore[misc]
        group: Any = None

        def _mean_over_ranks(self, value: Tensor) -> Tensor:
            ranks = 1 if self.group is None else dist.get_world_size(self.group)
            return across_ranks.total(value, self.group) / ranks

        def get_num_masks(self, class_labels: list[Tensor], device: torch.device) -> Tensor:
            count = torch.tensor(float(sum(len(classes) for classes in class_labels)), device=device)
            return self._mean_over_ranks(count).clamp(min=1)

        def loss_labels(self, class_queries_logits: Tensor, class_labels: list[Tensor], indices: Any) -> Any:
            wanted = class_queries_logits.new_full(class_queries_logits.shape[:2], self.num_labels, dtype=torch.int64)
            for image, (queries, matched) in enumerate(indices):
                wanted[image, queries] = class_labels[image][matched.to(class_labels[image].device)]
            weight = self.empty_weight[wanted]
            losses = F.cross_entropy(class_queries_logits.transpose(1, 2), wanted, reduction="none")
            denominator = self._mean_over_ranks(weight.sum())
            return {"loss_cross_entropy": (weight * losses).sum() / denominator}

    return Criterion


def mask_loss(
    config: Any, prediction: Prediction, labels: Tensor, *, seed: int = 0, step: int = 0, group: Any = None
) -> dict[str, Tensor]:
    """{"class": …, "mask": …, "dice": …}, weighted as published and summed over the decoder's layers; their sum is
    the loss. config: the model's `network.config`. A prediction made in training mode; labels [N, H, W] at any size
    of the image's shape.

    A query whose costs are not finite is matched last. group: counts span its ranks, and a term comes back so that
    averaging over ranks gives the global one (None: this process alone); the points are drawn per rank."""
    if "layers" not in prediction.extra:
        raise ValueError("mask_loss needs a prediction of a Mask2Former in training mode: call model.train() first")
    device = labels.device
    criterion = _criterion_class()(config, {}).to(device)
    criterion.group = group
    masks, classes = targets(labels, config.num_labels)
    sums: dict[str, Tensor] = {}
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.autocast(device.type, enabled=False):
        torch.manual_seed(seed * 1_000_003 + step)
        for class_logits, mask_logits in prediction.extra["layers"]:
            found = criterion(mask_logits.float(), class_logits.float(), masks, classes)
            for name, value in found.items():
                sums[name] = sums.get(name, value.new_zeros(())) + value
    return {
        "class": config.class_weight * sums["loss_cross_entropy"],
        "mask": config.mask_weight * sums["loss_mask"],
        "dice": config.dice_weight * sums["loss_dice"],
    }
