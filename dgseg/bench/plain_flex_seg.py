"""FLEX-Seg's losses as one composes them from plain torch: what `dgseg bench step` runs ours beside. Logits are
upsampled, bands come from max_pool2d, band pixels are gathered."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.data.labels import VOID
from dgseg.data.sample import Batch
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import ORIGINAL, StepContext


def bands(labels: Tensor, radii: tuple[int, ...]) -> Tensor:
    values = labels[:, None].float()
    valid = labels != VOID
    lowest, highest = values.masked_fill(~valid[:, None], 1e4), values.masked_fill(~valid[:, None], -1e4)
    found = torch.zeros_like(labels)
    for index in reversed(range(len(radii))):
        window, r = 2 * radii[index] + 1, radii[index]
        biggest = F.max_pool2d(highest, window, 1, r)[:, 0]
        smallest = -F.max_pool2d(-lowest, window, 1, r)[:, 0]
        found[valid & (biggest > smallest)] = index + 1
    return found


class PlainCrossEntropy(nn.Module):
    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        out = outputs[ORIGINAL]
        assert batch.labels is not None
        labels = batch.labels.long()
        terms = {"ce": self.loss(out.logits, labels)}
        for number, aux in enumerate(out.aux, start=1):
            terms[f"ce/aux{number}"] = aux.weight * self.loss(aux.logits, labels)
        return terms

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        upsampled = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
        return F.cross_entropy(upsampled, labels, ignore_index=VOID)


class PlainFlexSeg(nn.Module):
    prototypes: Tensor
    updates: Tensor

    def __init__(self, projection: nn.Module | None, classes: int, dim: int, radii: tuple[int, ...]) -> None:
        super().__init__()
        self.projection = projection
        self.radii = radii
        self.register_buffer("prototypes", torch.zeros(classes, len(radii), dim))
        self.register_buffer("updates", torch.zeros(classes, len(radii), dtype=torch.int64))

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        out = outputs[ORIGINAL]
        assert batch.labels is not None
        labels = batch.labels
        edge = bands(labels, (3,)) > 0
        terms = {"ube": self.emphasis(out.logits, labels, edge)}
        for number, aux in enumerate(out.aux, start=1):
            terms[f"ube/aux{number}"] = aux.weight * self.emphasis(aux.logits, labels, edge)
        features = out.features["decoder"]
        features = features if self.projection is None else self.projection(features)
        return terms | {"gap": 0.5 * self.contrast(features, labels)}

    def emphasis(self, logits: Tensor, labels: Tensor, edge: Tensor) -> Tensor:
        valid = labels != VOID
        upsampled = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(upsampled, labels.long(), ignore_index=VOID, reduction="none")
        with torch.no_grad():
            log_p = upsampled.log_softmax(1)
            entropy = -(log_p.exp() * log_p).sum(1)
            inside = entropy[edge]
            score = (entropy - inside.mean()) / (inside.std(correction=0) + 1e-6)
            weight = torch.where(edge, 1 + 3.0 * torch.sigmoid(score), 1.0)
        return (weight * loss).sum() / valid.sum()

    def contrast(self, features: Tensor, labels: Tensor) -> Tensor:
        stride = labels.shape[-1] // features.shape[-1]
        labels = labels[:, ::stride, ::stride]
        found = bands(labels, self.radii)
        at = found > 0
        pixels = F.normalize(features.float().permute(0, 2, 3, 1)[at], dim=1)
        cells = labels[at].long() * len(self.radii) + found[at].long() - 1
        seen = self.updates.flatten() > 0
        bank = F.normalize(self.prototypes.flatten(0, 1), dim=1)
        kept = seen[cells]
        similarity = (pixels[kept] @ bank.T / 0.07).masked_fill(~seen, -torch.inf)
        weights = 1 / (self.updates.flatten() + 1.0)
        weights = weights / torch.where(seen, weights, 0.0).max().clamp(min=1e-12)
        losses = weights[cells[kept]] * F.cross_entropy(similarity, cells[kept], reduction="none")
        loss = losses.sum() / kept.sum().clamp(min=1)
        if self.training:
            self.update(pixels.detach(), cells)
        return loss

    @torch.no_grad()
    def update(self, pixels: Tensor, cells: Tensor) -> None:
        counts = torch.bincount(cells, minlength=self.updates.numel()).view_as(self.updates)
        sums = torch.zeros_like(self.prototypes).flatten(0, 1).index_add_(0, cells, pixels).view_as(self.prototypes)
        means = sums / counts.clamp(min=1)[..., None]
        moved = torch.where((self.updates == 0)[..., None], means, 0.99 * self.prototypes + 0.01 * means)
        self.prototypes.copy_(torch.where((counts > 0)[..., None], moved, self.prototypes))
        self.updates += counts > 0
