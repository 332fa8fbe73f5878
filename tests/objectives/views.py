"""A batch of two views and what a model would say of each."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from dgseg.data import Batch
from dgseg.models import Prediction
from tests.objectives.harness import CLASSES, batch
from tests.ops.harness import label_map, normal

Shapes = Mapping[str, tuple[int, int, int]]


def predictions(
    shapes: Shapes, N: int = 2, *, logits: tuple[int, int] = (12, 16), seed: int = 0
) -> dict[str, Prediction]:
    """Float64 leaves; the augmented view's features are the original's and noise."""
    found = {}
    for number, view in enumerate(("original", "augmented")):
        features = {}
        for place, (feature, shape) in enumerate(shapes.items()):
            shared = normal(N, *shape, dtype=torch.float64, seed=seed + 7 * place).cpu()
            noise = normal(N, *shape, dtype=torch.float64, seed=seed + 100 + number).cpu()
            features[feature] = (shared + 0.5 * noise).requires_grad_()
        guesses = normal(N, CLASSES, *logits, dtype=torch.float64, seed=seed + 50 + number).cpu().requires_grad_()
        found[view] = Prediction(guesses, features, [], {})
    return found


def rightly(outputs: dict[str, Prediction], labels: Tensor, share: float = 0.6, seed: int = 3) -> dict[str, Prediction]:
    """With logits that say what the labels say, in this share of the places."""
    found = {}
    for number, (view, prediction) in enumerate(outputs.items()):
        h, w = prediction.logits.shape[-2:]
        rows, columns = (torch.arange(k) * s // k for k, s in zip((h, w), labels.shape[1:], strict=True))
        truth = labels[:, rows][:, :, columns].long()
        generator = torch.Generator().manual_seed(seed + number)
        sure = (torch.rand(truth.shape, generator=generator) < share) & (truth < CLASSES)
        boost = torch.nn.functional.one_hot(truth.clamp(max=CLASSES - 1), CLASSES).permute(0, 3, 1, 2)
        found[view] = prediction._replace(logits=prediction.logits.detach() + 20 * boost * sure[:, None])
    return found


def two_views(labels: Tensor, first_draw: int = 0) -> Batch:
    found = batch(labels, first_draw=first_draw)
    return dataclasses.replace(found, views={"augmented": batch(labels, first_draw=first_draw)})


def few_classes(N: int = 2, H: int = 24, W: int = 32, *, seed: int = 0) -> Tensor:
    """Of five classes, so that each has many pixels in a small map."""
    found = label_map(N, H, W, classes=5, block=8, seed=seed).cpu()
    found[:, 3:6, 10:14] = 254
    return found


def leaves(outputs: Mapping[str, Prediction], view: str) -> list[Tensor]:
    return list(outputs[view].features.values())


def part(outputs: Mapping[str, Prediction], images: slice) -> dict[str, Prediction]:
    return {
        view: Prediction(
            prediction.logits.detach()[images],
            {name: feature.detach()[images].requires_grad_() for name, feature in prediction.features.items()},
            [],
            {},
        )
        for view, prediction in outputs.items()
    }
