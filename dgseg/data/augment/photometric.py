"""Colours: what changes an image and leaves its maps alone."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dgseg.data.augment.geometry import check_range
from dgseg.data.augment.transform import AnySample, Transform
from dgseg.data.sample import Draw, Sample


class Colour(Transform):
    geometric: ClassVar[bool] = False

    def apply(self, sample: AnySample, rng: np.random.Generator, draw: Draw) -> Sample:
        whole = sample.whole()
        image = self.recolour(whole.image, rng)
        return replace(
            whole, image=image, views={name: self.apply(each, rng, draw) for name, each in whole.views.items()}
        )

    @abstractmethod
    def recolour(self, image: Tensor, rng: np.random.Generator) -> Tensor: ...


def distort(
    image: Tensor,
    *,
    brightness: float = 0.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
    contrast_first: bool = True,
) -> Tensor:
    """On uint8 [3, H, W], in this order, every step clamped to [0, 255] and nothing rounded before the end: add
    `brightness`, multiply by `contrast` (or last of all, without `contrast_first`), multiply HSV's saturation, turn
    its hue by `hue` degrees. Halves round up."""
    from dgseg._host import distort as native

    turn = (hue / 60 + 3) % 6 - 3
    out = native(
        image.contiguous().numpy(),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=turn,
        contrast_first=contrast_first,
    )
    return torch.from_numpy(out)


@dataclass(frozen=True)
class PhotometricDistortion(Colour):
    """The distortion that mmsegmentation made customary, each step with probability `each`: brightness ± levels,
    contrast before or after the others (a coin decides), saturation, hue ± degrees. Where OpenCV rounds to bytes
    after every step, this does so once (see `distort`). Hue 36 is OpenCV's 18: it halves degrees to fit a byte."""

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 36.0
    each: float = 0.5
    p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("PhotometricDistortion: contrast", self.contrast)
        check_range("PhotometricDistortion: saturation", self.saturation)
        if not (self.brightness >= 0 and 0 <= self.hue <= 180 and 0 <= self.each <= 1):
            raise ValueError(
                f"PhotometricDistortion: brightness {self.brightness} is at least 0, hue {self.hue} lies in 0 to 180 "
                f"degrees, each {self.each} is a probability"
            )

    def recolour(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        chosen = rng.random(4) < self.each
        first = bool(rng.random() < 0.5)
        # Always drawn, so that a step's strength does not depend on which others were chosen.
        brightness, contrast, saturation, hue = rng.uniform(
            (-self.brightness, self.contrast[0], self.saturation[0], -self.hue),
            (self.brightness, self.contrast[1], self.saturation[1], self.hue),
        ).tolist()
        if not chosen.any():
            return image
        return distort(
            image,
            brightness=brightness if chosen[0] else 0.0,
            contrast=contrast if chosen[1] else 1.0,
            saturation=saturation if chosen[2] else 1.0,
            hue=hue if chosen[3] else 0.0,
            contrast_first=first,
        )


@dataclass(frozen=True)
class ColourJitter(Colour):
    """torchvision's ColorJitter: factors from [max(0, 1 − x), 1 + x], the hue turned by a share of the circle within
    ±hue, in random order. The hue turns in `distort`, which differs from torchvision's by rounding and takes a
    twentieth of the time."""

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (min(self.brightness, self.contrast, self.saturation) >= 0 and 0 <= self.hue <= 0.5):
            raise ValueError(
                f"ColourJitter: brightness {self.brightness}, contrast {self.contrast} and saturation "
                f"{self.saturation} are at least 0, hue {self.hue} lies in 0 to 0.5"
            )

    def recolour(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        order = rng.permutation(4)
        spread = np.array((self.brightness, self.contrast, self.saturation))
        factors = rng.uniform(np.maximum(0, 1 - spread), 1 + spread).tolist()
        hue = rng.uniform(-self.hue, self.hue)
        for step in order:
            if step == 3:
                image = distort(image, hue=360 * hue) if self.hue else image
            elif spread[step]:
                image = _ADJUST[step](image, factors[step])
        return image


def _brightened(image: Tensor, factor: float) -> Tensor:
    return (image * factor).clamp_(0, 255).to(torch.uint8)


def _contrasted(image: Tensor, factor: float) -> Tensor:
    return _blended(image, _grey(image).mean(), factor)


def _saturated(image: Tensor, factor: float) -> Tensor:
    return _blended(image, _grey(image), factor)


def _blended(image: Tensor, other: Tensor, factor: float) -> Tensor:
    return (image * factor).add_(other, alpha=1 - factor).clamp_(0, 255).to(torch.uint8)


def _grey(image: Tensor) -> Tensor:
    """In whole numbers, as floats."""
    red, green, blue = image
    grey: Tensor = (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()
    return grey


_ADJUST = (_brightened, _contrasted, _saturated)


@dataclass(frozen=True)
class GaussianBlur(Colour):
    """Sigma drawn from `sigma`; the kernel reaches to four sigmas, borders are mirrored."""

    sigma: tuple[float, float] = (0.15, 1.3)
    p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("GaussianBlur: sigma", self.sigma)

    def recolour(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        sigma = float(rng.uniform(*self.sigma))
        # Mirroring needs more pixels than the kernel reaches.
        reach = min(max(1, round(4 * sigma)), min(image.shape[-2:]) - 1)
        bell = torch.exp(-0.5 * (torch.arange(reach + 1) / sigma) ** 2)
        weights: list[float] = (bell / (2 * bell.sum() - bell[0])).tolist()
        padded = pad(image.float(), [reach] * 4, mode="reflect")
        return _weighted(_weighted(padded, weights, -1), weights, -2).round_().to(torch.uint8)


def _weighted(padded: Tensor, weights: list[float], dim: int) -> Tensor:
    """Along one side, a tap after the other: a sixth of the time of torchvision's convolution."""
    reach = len(weights) - 1
    length = padded.shape[dim] - 2 * reach
    out = padded.narrow(dim, reach, length) * weights[0]
    for step in range(1, reach + 1):
        both = padded.narrow(dim, reach - step, length) + padded.narrow(dim, reach + step, length)
        out.add_(both, alpha=weights[step])
    return out
