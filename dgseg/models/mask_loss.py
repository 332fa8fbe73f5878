"""Mask2Former's loss: each image's classes are matched with queries, and every matched query learns its class and its
mask. The matching and the point sampling are transformers'; around them: label maps in, full precision, each image's
points by its draw, denominators over the process group."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dgseg.models.prediction import Prediction
from dgseg.ops import across_ranks
from dgseg.ops.constants import constant


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
        """Of one image, by the denominators of all."""

        masks: Tensor
        class_weight: Tensor

        def get_num_masks(self, class_labels: list[Tensor], device: torch.device) -> Tensor:
            return self.masks

        def loss_labels(self, class_queries_logits: Tensor, class_labels: list[Tensor], indices: Any) -> Any:
            wanted = class_queries_logits.new_full(class_queries_logits.shape[:2], self.num_labels, dtype=torch.int64)
            for image, (queries, matched) in enumerate(indices):
                wanted[image, queries] = class_labels[image][matched.to(class_labels[image].device)]
            losses = F.cross_entropy(class_queries_logits.transpose(1, 2), wanted, reduction="none")
            return {"loss_cross_entropy": (self.empty_weight[wanted] * losses).sum() / self.class_weight}

    return Criterion


def mask_loss(
    config: Any,
    prediction: Prediction,
    labels: Tensor,
    draws: Sequence[int] | None = None,
    *,
    seed: int = 0,
    step: int = 0,
    group: Any = None,
) -> dict[str, Tensor]:
    """{"class": …, "mask": …, "dice": …}, weighted as published and summed over the decoder's layers; their sum is
    the loss. config: the model's `network.config`. A prediction made in training mode; labels [N, H, W] at any size
    of the image's shape. draws: of every image, which with seed and step decides its points (None: its place).

    A query whose costs are not finite is matched last. group: counts span its ranks, and a term comes back so that
    averaging over ranks gives the global one (None: this process alone)."""
    if "layers" not in prediction.extra:
        raise ValueError("mask_loss needs a prediction of a Mask2Former in training mode: call model.train() first")
    layers = prediction.extra["layers"]
    device = labels.device
    criterion = _criterion_class()(config, {}).to(device)
    masks, classes = targets(labels, config.num_labels)
    queries = layers[0][0].shape[1]
    matched = sum(min(len(each), queries) for each in classes)
    unmatched = queries * len(labels) - matched
    counts = constant([float(sum(map(len, classes))), matched + config.no_object_weight * unmatched], device)
    ranks = 1 if group is None else dist.get_world_size(group)
    criterion.masks, criterion.class_weight = (across_ranks.total(counts, group) / ranks).unbind()
    criterion.masks = criterion.masks.clamp(min=1 / ranks)  # at least one of all ranks together
    sums: dict[str, Tensor] = {}
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.autocast(device.type, enabled=False):
        for image, draw in enumerate(range(len(labels)) if draws is None else draws):
            torch.manual_seed(((seed * 1_000_003 + step) * 1_000_003 + draw) % 2**63)
            part = slice(image, image + 1)
            for class_logits, mask_logits in layers:
                found = criterion(mask_logits[part].float(), class_logits[part].float(), masks[part], classes[part])
                for name, value in found.items():
                    sums[name] = sums.get(name, value.new_zeros(())) + value
    return {
        "class": config.class_weight * sums["loss_cross_entropy"],
        "mask": config.mask_weight * sums["loss_mask"],
        "dice": config.dice_weight * sums["loss_dice"],
    }
