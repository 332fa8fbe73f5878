"""What every model returns. Tuples, not dataclasses: torch.compile, DDP and FSDP look inside them by themselves."""

from typing import Any, NamedTuple

from torch import Tensor


class Box(NamedTuple):
    """A part of the input image, in input pixels; ints, or 0-d int64 tensors in a compiled graph."""

    top: int | Tensor
    left: int | Tensor
    height: int
    width: int


class Aux(NamedTuple):
    """A further prediction that a loss is taken on: deep supervision, BiSeNet's heads, HRDA's detail branch."""

    logits: Tensor
    weight: float
    box: Box | None = None  # the part of the image it covers; None: all of it


class Prediction(NamedTuple):
    logits: Tensor  # [N, C, h, w] at the model's own resolution: nobody upsamples, the operators do it inside
    features: dict[
        str, Tensor
    ]  # stage1 … stage4, decoder, pre_classifier: those that the model has; before any dropout
    aux: list[Aux]  # empty in eval mode
    extra: dict[str, Any]  # of one architecture alone; "weight": of the loss on logits where it is not 1
