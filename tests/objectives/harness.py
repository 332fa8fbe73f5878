"""Batches and predictions as a data loader and a model would give them, without either."""

from typing import Any

import torch
from torch import Tensor

from dgseg.data import Batch
from dgseg.models import Aux, Box, Prediction
from dgseg.models.base import SegmentationModel
from dgseg.objectives import StepContext
from tests.ops.harness import label_map, normal

CLASSES = 19


class Stub(SegmentationModel):
    """A model to build objectives for: it has feature maps of these widths."""

    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__(CLASSES)
        self.widths = widths
        self.uncertainty = torch.nn.ParameterList([torch.zeros(1)])  # no random number is drawn for it

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        features = {name: images.new_zeros(len(images), width, 4, 4) for name, width in self.widths.items()}
        return Prediction(images.new_zeros(len(images), CLASSES, 4, 4), features, [], {})


def stub(**widths: int) -> Stub:
    return Stub(widths)


def batch(labels: Tensor | None, *, first_draw: int = 0, images: Tensor | None = None) -> Batch:
    N = len(labels) if labels is not None else 2
    numbers = torch.arange(N)
    if images is None:
        images = torch.zeros(N, 3, 4, 4, dtype=torch.uint8)
    return Batch(images, labels, [f"image/{i}" for i in range(N)], first_draw + numbers, numbers, torch.zeros(N).long())


def labels(N: int = 3, H: int = 32, W: int = 48, *, seed: int = 0, ignored: float = 0.1) -> Tensor:
    """Blocks of classes, ignored pixels, and out-of-distribution ones."""
    found = label_map(N, H, W, seed=seed, ignored=ignored).cpu()
    found[:, 3:6, 10:14] = 254
    return found


def prediction(
    N: int = 3,
    h: int = 8,
    w: int = 12,
    *,
    seed: int = 0,
    D: int = 16,
    aux: list[Aux] | None = None,
    extra: dict[str, Any] | None = None,
) -> Prediction:
    """Float64 leaves."""
    logits = normal(N, CLASSES, h, w, dtype=torch.float64, seed=seed, scale=2.0).cpu().requires_grad_()
    decoder = normal(N, D, h, w, dtype=torch.float64, seed=seed + 1).cpu().requires_grad_()
    stage4 = normal(N, D, h // 4, w // 4, dtype=torch.float64, seed=seed + 2).cpu().requires_grad_()
    return Prediction(logits, {"stage4": stage4, "decoder": decoder}, aux or [], extra or {})


def detail(N: int, seed: int = 9) -> Aux:
    """As HRDA's: a crop of half the sides of a 32x48 image, at stride 4."""
    logits = normal(N, CLASSES, 4, 6, dtype=torch.float64, seed=seed).cpu().requires_grad_()
    return Aux(logits, 0.1, Box(8, 16, 16, 24))


def context(step: int = 0, group: Any = None, seed: int = 7) -> StepContext:
    return StepContext(step, 100, group, seed)


# Label maps on which means are taken over nothing, or over one pixel.
def degenerate() -> dict[str, Tensor]:
    one_pixel = torch.full((2, 16, 16), 255, dtype=torch.uint8)
    one_pixel[0, 8, 8] = 3
    halves = torch.full((2, 16, 16), 255, dtype=torch.uint8)
    halves[1, :, :8], halves[1, :, 8:] = 11, 13
    return {
        "one class": torch.full((2, 16, 16), 5, dtype=torch.uint8),
        "all void": torch.full((2, 16, 16), 255, dtype=torch.uint8),
        "all out of distribution": torch.full((2, 16, 16), 254, dtype=torch.uint8),
        "one pixel": one_pixel,
        "one image void": halves,
    }
