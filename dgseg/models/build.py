"""Model names and where they live; a model's module, and the libraries it needs, load when it is built."""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import nn

from dgseg.models.base import SegmentationModel, UnknownOption

if TYPE_CHECKING:
    from dgseg.models.discriminator import Discriminator

# name -> "module:function"; the function takes (num_classes, pretrained, **options)
MODELS: dict[str, str] = {
    "daformer_mitb0": "dgseg.models.daformer:mitb0",
    "daformer_mitb5": "dgseg.models.daformer:mitb5",
    "daformer_r101": "dgseg.models.daformer:r101",
    "hrda_mitb0": "dgseg.models.hrda:mitb0",
    "hrda_mitb5": "dgseg.models.hrda:mitb5",
    "hrda_r101": "dgseg.models.hrda:r101",
    "segformer_b0": "dgseg.models.segformer:b0",
    "segformer_b1": "dgseg.models.segformer:b1",
    "segformer_b2": "dgseg.models.segformer:b2",
    "segformer_b3": "dgseg.models.segformer:b3",
    "segformer_b4": "dgseg.models.segformer:b4",
    "segformer_b5": "dgseg.models.segformer:b5",
    "bisenet_mini": "dgseg.models.bisenet_mini:bisenet_mini",
    "mask2former_r50": "dgseg.models.mask2former:mask2former_r50",
    "vit_small_dinov2": "dgseg.models.vit:vit_small_dinov2",
    "vit_base_dinov2": "dgseg.models.vit:vit_base_dinov2",
    "vit_large_dinov2": "dgseg.models.vit:vit_large_dinov2",
    "vit_small_dinov3": "dgseg.models.vit:vit_small_dinov3",
    "vit_base_dinov3": "dgseg.models.vit:vit_base_dinov3",
    "vit_large_dinov3": "dgseg.models.vit:vit_large_dinov3",
    "bisenet_r18": "dgseg.models.bisenet:bisenet_r18",
    "deeplabv2_r101": "dgseg.models.deeplabv2:deeplabv2_r101",
    "deeplabv3plus_r50": "dgseg.models.deeplabv3plus:deeplabv3plus_r50",
    "deeplabv3plus_shufflenetv2": "dgseg.models.deeplabv3plus:deeplabv3plus_shufflenetv2",
    "deeplabv3plus_mobilenetv2": "dgseg.models.deeplabv3plus:deeplabv3plus_mobilenetv2",
}
# What is no model of images: not in profiles, exports and recipes' choices.
PARTS = {"discriminator": "dgseg.models.discriminator:discriminator"}


@overload
def build(
    name: Literal["discriminator"], num_classes: int = 19, pretrained: bool | str = False, **options: Any
) -> "Discriminator": ...
@overload
def build(name: str, num_classes: int = 19, pretrained: bool | str = False, **options: Any) -> SegmentationModel: ...
def build(name: str, num_classes: int = 19, pretrained: bool | str = False, **options: Any) -> nn.Module:
    """A model by name. pretrained: False, True (the backbone's published weights by hub name) or a local file."""
    known = MODELS | PARTS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown model {name!r}{hint} Models: {', '.join(sorted(known))}")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}: at least 1")
    module, function = known[name].split(":")
    try:
        model: nn.Module = getattr(import_module(module), function)(num_classes, pretrained, **options)
    except TypeError as error:
        refused = [option for option in options if f"unexpected keyword argument '{option}'" in str(error)]
        if not refused:
            raise
        raise UnknownOption(f"{name} has no option {refused[0]!r}") from error
    if isinstance(model, SegmentationModel):
        model.architecture = name
        model.options = dict(options)
    return model
