"""Generalize or Detect: the learned uncertainty must be high on what no class names (labels 254), and on nothing else,
however the image looks. Each batch is seen twice, as it is and augmented, at the same places.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dgseg.data.augment.pipeline import AUGMENTED
from dgseg.data.labels import OUT_OF_DISTRIBUTION, VOID
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import ORIGINAL, Objective, StepContext, objective, trainable, weighted
from dgseg.objectives.cross_entropy import CrossEntropy
from dgseg.ops import across_ranks
from dgseg.ops.constants import constant
from dgseg.ops.prototype_ema.order import pixel_keys


@objective("relative_contrast", "uncertainty")
class RelativeContrast(Objective):
    """Means of max(0, u_in + λ1 - u_out) and max(0, u_aug + λ2 - u_out) over random pairs of pixels, and of
    max(0, u_aug - u_in - λ3) over the places that are known in both views. A pixel is out where it is labelled 254, in
    either view; it is in (original) or aug (augmented) where it has a class."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        """Margins are for DeepLabV3+'s energies; Mask2Former's scores, which lie in 0 to 1, want .7, .5 and .2."""

        original: float | None = 10.0
        """λ1: unknown pixels lie this far above known ones of the original view; None: without this term"""
        augmented: float | None = 5.0
        """λ2: and this far above known ones of the augmented view"""
        shift: float | None = 5.0
        """λ3: a known place may be this much more uncertain in the augmented view than in the original"""
        view: str = AUGMENTED
        name: str = "unc"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.original is None and self.augmented is None and self.shift is None:
                raise ValueError(
                    f"objective {self.name!r} has no term left: give original, augmented or shift a margin"
                )

        @classmethod
        def mask2former(cls) -> Self:
            return cls(original=0.7, augmented=0.5, shift=0.2)

    config: Config

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__(config, model)
        if getattr(model, "uncertainty", None) is None:
            raise ValueError(
                f"objective {self.name!r} trains an uncertainty head, and this {type(model).__name__} has none: build "
                "deeplabv3plus_* or mask2former_r50 with uncertainty=True (model.options)"
            )

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        config = self.config
        views = ORIGINAL, config.view
        scores, labels = zip(*(self._scored(outputs, batch, view) for view in views), strict=True)
        if labels[0].shape != labels[1].shape:
            raise ValueError(
                f"objective {self.name!r} compares places of two views; they are {list(labels[0].shape)} and "
                f"{list(labels[1].shape)}"
            )
        size = labels[0].shape[-2:]
        # Every rank sees the global batch: any pixel may be paired with any other.
        u_N2hw, labels_N2HW, draws = (
            gathered(each, context.group)
            for each in (torch.stack(scores, 1), torch.stack(labels, 1), batch.draws.to(labels[0].device))
        )
        u_N2HW = F.interpolate(u_N2hw, size=size, mode="bilinear", align_corners=False)
        out = labels_N2HW == OUT_OF_DISTRIBUTION
        known = (labels_N2HW != VOID) & ~out
        index = torch.arange(2, device=out.device).view(1, 2, 1, 1)
        # A term's two permutations, and those of the two terms, have streams of their own.
        margins = {"original": (config.original, (0, 1)), "augmented": (config.augmented, (2, 3))}
        losses = {}
        for view, (term, (margin, own)) in enumerate(margins.items()):
            if margin is not None:
                keys = [_keys(draws, context.seed, 4 * context.step + stream, size) for stream in own]
                within = known & (index == view)
                partners = uncertainty_pairs(out.flatten(), within.flatten(), *keys)
                losses[term] = _paired_hinge(u_N2HW.flatten(), partners, margin)
        if config.shift is not None:
            hinge = (u_N2HW[:, 1] - u_N2HW[:, 0] - config.shift).relu()
            losses["shift"] = _mean(hinge, known.all(1))
        self._metrics = {f"{term}_unweighted": loss.detach() for term, loss in losses.items()}
        self._metrics |= {
            "u_out": _mean(u_N2HW.detach(), out),
            "u_in": _mean(u_N2HW[:, 0].detach(), known[:, 0]),
            "u_aug": _mean(u_N2HW[:, 1].detach(), known[:, 1]),
        }
        return {f"{self.name}/{term}": weighted(loss, config.weight) for term, loss in losses.items()}

    def _scored(self, outputs: Mapping[str, Prediction], batch: Batch, view: str) -> tuple[Tensor, Tensor]:
        if view not in outputs or (view != ORIGINAL and view not in batch.views):
            raise ValueError(
                f"objective {self.name!r} needs every image twice, as {ORIGINAL!r} and {self.config.view!r}, and there "
                f"is {', '.join(outputs)}: train on a source of pairs (pairs=PATH, streets_pairs=game)"
            )
        found = outputs[view].extra.get("uncertainty")
        if found is None:
            raise ValueError(f"objective {self.name!r} needs a model that was built with uncertainty=True")
        labels = batch.labels if view == ORIGINAL else batch.views[view].labels
        if labels is None:
            raise ValueError(f"objective {self.name!r} needs labels, and view {view!r} of the batch has none")
        return found, labels


def _keys(draws: Tensor, seed: int, stream: int, size: torch.Size) -> Tensor:
    views = torch.stack([2 * draws, 2 * draws + 1], 1).flatten()
    return pixel_keys(views, seed, stream, *size).flatten()


# An operator of its own: how many pixels there are of a kind is data, and a compiled graph takes shapes alone.
@torch.library.custom_op("dgseg::uncertainty_pairs", mutates_args=())
def uncertainty_pairs(first: Tensor, second: Tensor, first_keys: Tensor, second_keys: Tensor) -> Tensor:
    """bool masks and int64 keys [P] -> int64 [P]: the pixels of the two masks, each in the order of its keys, one to
    one until one of them ends. A first pixel has its partner's index, every other pixel -1."""
    mine, others = first.nonzero()[:, 0], second.nonzero()[:, 0]
    pairs = min(len(mine), len(others))
    mine = mine[first_keys[mine].topk(pairs, largest=False).indices]
    others = others[second_keys[others].topk(pairs, largest=False).indices]
    return torch.full_like(first_keys, -1).index_copy_(0, mine, others)


@uncertainty_pairs.register_fake
def _fake_pairs(first: Tensor, second: Tensor, first_keys: Tensor, second_keys: Tensor) -> Tensor:
    return torch.empty_like(first_keys)


def _paired_hinge(u: Tensor, partners: Tensor, margin: float) -> Tensor:
    paired = partners >= 0
    # Who has no partner looks at itself: at one common pixel the gradients of all would queue up.
    own = torch.arange(len(u), device=u.device)
    others = u.gather(0, torch.where(paired, partners, own))
    return _mean((others + margin - u).relu(), paired)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """0, with a graph, over nothing."""
    return torch.where(where, values, 0.0).sum() / where.sum().clamp(min=1)


class _Gather(torch.autograd.Function):
    """Batches of all ranks, one after the other. Every rank goes on to compute the same loss from them, whose gradient
    for a rank's own part comes back times the number of ranks: gradients are then averaged over the ranks."""

    @staticmethod
    def forward(ctx, local: Tensor, group: dist.ProcessGroup) -> Tensor:  # type: ignore[no-untyped-def]
        lengths = across_ranks.gather(constant([len(local)], local.device), group).flatten().tolist()
        padded = local.new_zeros(max(lengths), *local.shape[1:])
        padded[: len(local)] = local
        parts = across_ranks.gather(padded.flatten(), group).view(-1, *padded.shape)
        start = sum(lengths[: group.rank()])
        ctx.own, ctx.ranks = slice(start, start + len(local)), group.size()
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return gradients[0][ctx.own] * ctx.ranks, None


def gathered(local: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    if group is None:
        return local
    everywhere: Tensor = _Gather.apply(local, group)
    return everywhere


@objective("small_loss_cross_entropy", "small_loss")
class SmallLossCrossEntropy(CrossEntropy):
    """Cross-entropy on the augmented view, where its labels can be trusted: what a generator draws strays from them."""

    @dataclass(frozen=True, kw_only=True)
    class Config(CrossEntropy.Config):
        share: float = 0.8
        """of the valid pixels of the global batch: those with the lowest cross-entropy"""
        view: str = AUGMENTED
        name: str = "ce_augmented"

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 < self.share <= 1:
                raise ValueError(
                    f"objective {self.name!r} keeps a share above 0 and at most 1 of the pixels, not {self.share}"
                )

    config: Config
    scores_images = False

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        view = self.config.view
        labels = trainable(self.labels(batch))
        losses = pixel_losses(self.prediction(outputs).logits, labels)
        limit = smallest(losses, labels != VOID, self.config.share, context.group)
        kept = labels.masked_fill(losses > limit, VOID)
        if view == ORIGINAL:
            batch = replace(batch, labels=kept)
        else:
            batch = replace(batch, views={**batch.views, view: replace(batch.views[view], labels=kept)})
        terms = super().forward(outputs, batch, context)
        self._image_losses = None  # of the easy pixels alone they say nothing
        self._metrics["limit"] = limit
        return terms


@torch.no_grad()
def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """float32 [N, H, W]: the cross-entropy of every pixel, 0 on void; one image's logits at a time are upsampled."""
    found = []
    for image, truth in zip(logits, labels, strict=True):
        upsampled = F.interpolate(image[None].float(), size=truth.shape, mode="bilinear", align_corners=False)[0]
        void = truth == VOID
        own = upsampled.gather(0, truth.masked_fill(void, 0)[None].long())[0]
        found.append((upsampled.logsumexp(0) - own).clamp(min=0).masked_fill(void, 0.0))
    return torch.stack(found)


def smallest(values: Tensor, valid: Tensor, share: float, group: dist.ProcessGroup | None) -> Tensor:
    """float32: the share of the valid values of all ranks, rounded to a number of pixels and at least one, lies at or
    below it; 0 without a valid value. Exact: the bits of floats from 0 on are ordered as they are, and are counted half
    by half. NaN, whose sign is anybody's, counts as infinite: the loss itself then stops the run."""
    bits = values.nan_to_num(nan=math.inf, posinf=math.inf).view(torch.int32).flatten().long()
    upper, lower, counted = bits >> 16, bits & 0xFFFF, valid.flatten().long()
    counts = _histogram(upper, counted, group)
    total = counts.sum()
    wanted = (total.double() * share).round().long().clamp(min=1)
    bucket = (counts.cumsum(0) < wanted).sum().clamp(max=len(counts) - 1)
    before = (counts.cumsum(0) - counts).index_select(0, bucket[None])[0]  # a 0-d index would break a compiled graph
    counts = _histogram(lower, counted * (upper == bucket), group)
    place = (counts.cumsum(0) < wanted - before).sum().clamp(max=len(counts) - 1)
    found = (bucket << 16 | place).to(torch.int32).view(torch.float32)
    return torch.where(total > 0, found, 0.0)


def _histogram(places: Tensor, counted: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    counts = torch.zeros(1 << 16, dtype=torch.int64, device=places.device).scatter_add_(0, places, counted)
    return across_ranks.total(counts, group)


@objective("maximized_entropy", "max_entropy")
class MaximizedEntropy(Objective):
    """The mean over the pixels labelled 254 of the mean over the classes of -log p: least where p is uniform. Stands
    beside (1 - weight) times the cross-entropy in Chan et al.'s loss."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        weight: float = 0.9
        view: str = AUGMENTED
        name: str = "max_entropy"

    config: Config

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        labels, logits = self.labels(batch), self.prediction(outputs).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        upsampled = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        out = labels == OUT_OF_DISTRIBUTION
        total = torch.where(out, upsampled.logsumexp(1) - upsampled.mean(1), 0.0).sum()
        loss = across_ranks.mean(total, out.sum(), context.group)
        self._metrics = {"unweighted": loss.detach()}
        return {self.name: weighted(loss, self.config.weight)}
