"""Anybody's torchvision v2 transform as one of ours."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgseg.data.augment.transform import AnySample, Transform
from dgseg.data.sample import Draw, Sample


@dataclass(frozen=True)
class Torchvision(Transform):
    """Runs `transform` over image and maps together. It reads global random states: they are seeded from the draw's
    generator and put back afterwards.

    A transform that opens new area (rotation, perspective) fills masks with 0, which is road, unless it is told
    `fill={tv_tensors.Image: (124, 116, 104), tv_tensors.Mask: 255}`. Transforms that cannot move masks along
    (AutoAugment and its kin) refuse them, and so are refused here.
    """

    transform: Callable[..., Any]
    geometric: bool = True  # type: ignore[misc]  # False: colours alone, allowed in one view of several
    p: float = 1.0

    def apply(self, sample: AnySample, rng: np.random.Generator, draw: Draw) -> Sample:
        whole = sample.whole()
        with _seeded(int(rng.integers(2**32))):
            result = _plain_sample(self.transform(_tv_tensors(whole)), whole)
        if result.image.dtype != torch.uint8 or (result.label is not None and result.label.dtype != torch.uint8):
            raise ValueError(f"{self.transform} changes uint8; leave v2.ToDtype and Normalize to the model")
        if not self.geometric and not _equal(result.label, whole.label):
            raise ValueError(f"{self.transform} moves pixels: give it geometric=True and a place in `shared`")
        return result


def _tv_tensors(sample: Sample) -> dict[str, Any]:
    """All in one: a transform draws once for whatever it is called with."""
    from torchvision import tv_tensors  # takes seconds, and whoever has a transform has done it

    return {
        "image": tv_tensors.Image(sample.image),
        "label": None if sample.label is None else tv_tensors.Mask(sample.label),
        "extra": {name: tv_tensors.Mask(each) for name, each in sample.extra.items()},
        "views": {name: _tv_tensors(view) for name, view in sample.views.items()},
    }


def _plain_sample(out: dict[str, Any], like: Sample) -> Sample:
    return Sample(
        _plain(out["image"]),
        None if like.label is None else _plain(out["label"]),
        like.id,
        {name: _plain(each) for name, each in out["extra"].items()},
        {name: _plain_sample(out["views"][name], view) for name, view in like.views.items()},
    )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # The generator of the CPU alone: torch.manual_seed would reseed GPUs, too.
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002
