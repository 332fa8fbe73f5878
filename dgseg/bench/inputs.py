"""Seeded inputs that look like the data: blobs with ragged borders, ignored strips and blobs, smooth logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES = 19
IGNORED = 255


def _noise(generator: torch.Generator, N: int, C: int, H: int, W: int, cell: int) -> Tensor:
    """Normal noise that changes over about `cell` pixels."""
    coarse = torch.randn(N, C, H // cell + 2, W // cell + 2, generator=generator)
    return F.interpolate(coarse, size=(H, W), mode="bilinear", align_corners=False)


def label_map(N: int, H: int, W: int, *, ignored: float = 0.0, seed: int = 0) -> Tensor:
    """uint8 [N, H, W]: each pixel's class wins a contest of smooth random fields, roughened by finer ones. Of the
    ignored share, two fifths are a strip along the bottom and one along the left; the rest are blobs."""
    generator = torch.Generator().manual_seed(seed)
    contest = _noise(generator, N, CLASSES, H, W, 64)
    contest += 0.2 * _noise(generator, N, CLASSES, H, W, 6)
    labels = contest.argmax(1).to(torch.uint8)
    if ignored > 0:
        labels[:, H - max(1, round(H * ignored * 0.4)) :] = IGNORED
        labels[:, :, : max(1, round(W * ignored * 0.2))] = IGNORED
        field = _noise(generator, N, 1, H, W, 24)[:, 0]
        share = ignored - float((labels == IGNORED).float().mean())
        if share > 0:
            highest = field.flatten().sort(descending=True).values
            labels[field >= highest[round(share * (field.numel() - 1))]] = IGNORED
    return labels


def logits(N: int, h: int, w: int, *, smooth: bool, seed: int = 1) -> Tensor:
    """float32 [N, CLASSES, h, w]. Smooth ones are confident over areas, as those of a trained network."""
    generator = torch.Generator().manual_seed(seed)
    if not smooth:
        return torch.randn(N, CLASSES, h, w, generator=generator) * 2
    return _noise(generator, N, CLASSES, h, w, 12) * 5 + 0.3 * torch.randn(N, CLASSES, h, w, generator=generator)


def as_trained(tensor: Tensor) -> Tensor:
    """What a model gives its losses in training: under autocast, in the layout of its convolutions."""
    return tensor.to(torch.bfloat16, memory_format=torch.channels_last)


def features(N: int, D: int, h: int, w: int, *, seed: int = 2) -> Tensor:
    return torch.randn(N, D, h, w, generator=torch.Generator().manual_seed(seed))
