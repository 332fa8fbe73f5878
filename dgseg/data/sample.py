"""What travels from disk to the model. Images are uint8 RGB and labels uint8 until the model and the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Box(NamedTuple):
    """A part of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, tensor: Tensor) -> Tensor:
        """[..., H, W] -> [..., height, width], a view."""
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Sample:
    """One image. `label` is None where a dataset is used without its labels. `extra` holds further maps of the same
    height and width that share the image's geometry, nearest-sampled as labels are (depth, instance ids). `views` holds
    further pictures of the same places with labels of their own ("augmented": the scene as a generator redrew it): they
    move as this one does, and become views of the batch."""

    image: Tensor  # uint8 [3, H, W]
    label: Tensor | None  # uint8 [H, W]: train ids, 254 = out-of-distribution, 255 = void
    id: str  # stable across machines: "cityscapes/frankfurt/frankfurt_000000_000294", "streets/fog/0/1000012"
    extra: dict[str, Tensor] = field(default_factory=dict)
    views: dict[str, Sample] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[-2], self.image.shape[-1]

    def crop(self, box: Box) -> Sample:
        return Sample(
            box.of(self.image),
            None if self.label is None else box.of(self.label),
            self.id,
            {name: box.of(each) for name, each in self.extra.items()},
            {name: view.crop(box) for name, view in self.views.items()},
        )

    def whole(self) -> Sample:
        return self


@dataclass(frozen=True)
class LazySample:
    """A sample whose image is still compressed: a crop is chosen by the label, and only its pixels are decoded.
    Whatever takes a Sample for augmentation takes this too; `whole` makes a plain one of it."""

    label: Tensor | None
    id: str
    size: tuple[int, int]
    decode: Callable[[Box], tuple[Tensor, dict[str, Tensor]]]  # image and extra maps of that part

    def crop(self, box: Box) -> Sample:
        image, extra = self.decode(box)
        return Sample(image, None if self.label is None else box.of(self.label), self.id, extra)

    def whole(self) -> Sample:
        return self.crop(Box(0, 0, *self.size))


@dataclass(frozen=True, slots=True)
class Draw:
    """One choice of a sampler. Everything random that happens to the sample is a function of (seed, number)."""

    number: int  # position in the stream of all draws of the run: step · global batch + place in the batch
    source: int  # which of the configured datasets
    index: int  # which of its samples
    wanted_class: int = -1  # rare-class sampling asks crops to hold this class; -1: nothing is asked


def check_seed(seed: int) -> None:
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed is {seed}; it must lie in 0 to 2^64 - 1")


def generator(seed: int, number: int, purpose: int = 0) -> np.random.Generator:
    """The random numbers of one draw: counter-based, so no draw depends on the ones before it."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=[0, 0, 0, number]))


@dataclass(frozen=True)
class Batch:
    """What a training step sees: this rank's slice of the global batch."""

    images: Tensor  # uint8 [N, 3, H, W]
    labels: Tensor | None  # uint8 [N, H, W], 254 and 255 included; None for unlabelled targets
    ids: list[str]
    draws: Tensor  # int64 [N]: Draw.number
    indices: Tensor  # int64 [N]: index into all sources laid end to end; the hardness sampler's key
    sources: Tensor  # int64 [N]
    views: dict[str, Batch] = field(default_factory=dict)  # further views of the same samples ("augmented", …)
    target: Batch | None = None  # samples of the domain to adapt to
    domain: Sequence[str] = ()  # per sample

    def to(self, device: torch.device | str) -> Batch:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            images=move(self.images),
            labels=None if self.labels is None else move(self.labels),
            draws=move(self.draws),
            indices=move(self.indices),
            sources=move(self.sources),
            views={name: view.to(device) for name, view in self.views.items()},
            target=None if self.target is None else self.target.to(device),
        )

    def split(self, parts: int) -> list[Batch]:
        """Micro-batches of one size, in order."""
        if parts == 1:
            return [self]
        each = len(self.ids) // parts
        return [
            self._cut(slice(start, start + each), part, parts)
            for part, start in enumerate(range(0, len(self.ids), each))
        ]

    def _cut(self, part: slice, number: int, parts: int) -> Batch:
        return replace(
            self,
            images=self.images[part],
            labels=None if self.labels is None else self.labels[part],
            ids=self.ids[part],
            draws=self.draws[part],
            indices=self.indices[part],
            sources=self.sources[part],
            domain=self.domain[part],
            views={name: view._cut(part, number, parts) for name, view in self.views.items()},
            target=None if self.target is None else self.target.split(parts)[number],
        )
