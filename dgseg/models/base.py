"""What all models share: the input's convention, size checks, and what `build` needs to know."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dgseg.models.checkpointing import checkpointed
from dgseg.models.prediction import Prediction
from dgseg.ops.constants import constant

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class UnknownOption(ValueError):
    """A model has no option of that name."""


class SegmentationModel(nn.Module, ABC):
    """Images in, Prediction out. uint8 images are RGB and normalised here with the model's own constants, so that no
    caller can get them wrong; floating images are taken as normalised already."""

    # (x - mean) / std of RGB values in 0..1. A model with another convention (BGR, 0..255) overrides `normalise`.
    mean: ClassVar[tuple[float, float, float]] = IMAGENET_MEAN
    std: ClassVar[tuple[float, float, float]] = IMAGENET_STD
    multiple: int = 1  # sides that the network handles exactly; inference pads to it and crops back
    minimum: int = 32  # the smallest side
    architecture: str = ""  # the name that `build` knows the model by; saved with its weights
    options: Mapping[str, Any] = MappingProxyType({})  # that it was built with; saved, too
    align_corners: bool = False  # of the upsampling of logits in inference; training's losses do it without

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.checkpointing = False

    @property
    def dynamic_multiple(self) -> int:
        """Of sides, in an exported graph for many sizes: for those its steps are the same."""
        return self.multiple

    def checkpoint_stages(self, on: bool = True) -> Self:
        """Trade time for memory: with it on, training keeps the activations between stages only."""
        self.checkpointing = on
        return self

    def stage(self, module: nn.Module, *inputs: Any) -> Any:
        """How `predict` calls each stage, so that it can be checkpointed."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpointed(module, *inputs)
        return module(*inputs)

    def normalise(self, images: Tensor) -> Tensor:
        # Two constants, filled on the device: no buffers, hence nothing in a state dict, and meta builds stay cheap.
        mean = constant(self.mean, images.device).mul_(255).view(1, 3, 1, 1)
        std = constant(self.std, images.device).mul_(255).view(1, 3, 1, 1)
        return (images.float() - mean) / std

    def check(self, images: Tensor, *, minimum: int | None = None) -> None:
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [N, 3, H, W]; they are {list(images.shape)}")
        if images.shape[0] == 0:
            raise ValueError("the batch of images is empty")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ValueError(f"images must be uint8 RGB, or floating and normalised; they are {images.dtype}")
        minimum = self.minimum if minimum is None else minimum
        if min(images.shape[-2:]) < minimum:
            raise ValueError(
                f"{type(self).__name__} needs sides of at least {minimum} pixels; the images are "
                f"{images.shape[-2]}x{images.shape[-1]}"
            )

    def forward(self, images: Tensor, *, seed: int = 0, step: int = 0) -> Prediction:
        """Every random choice of the model's own (HRDA's crop) is a function of (seed, step)."""
        self.check(images)
        if images.dtype == torch.uint8:
            images = self.normalise(images)
        return self.predict(images.to(next(self.parameters()).dtype), seed=seed, step=step)

    def derived(self) -> dict[str, str]:
        """Parameters that begin as copies, own name -> whose: what a weights file without them means."""
        return {}

    def published_surplus(self, height: int, width: int) -> tuple[int, int]:
        """Parameters and multiply-accumulates that the published counts hold and this model does without: what a
        profile adds to stand beside a paper's table."""
        return 0, 0

    @abstractmethod
    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction: ...
