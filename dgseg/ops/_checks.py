"""Argument checks shared by the operators: every message says what to change."""

from collections.abc import Sequence

import torch
from torch import Tensor

LABEL_DTYPES = (torch.uint8, torch.int32, torch.int64)
FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def check_tensor(name: str, tensor: Tensor, dims: str, dtypes: Sequence[torch.dtype]) -> None:
    """dims like "N C h w": the rank is checked, the letters appear in the message."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor [{', '.join(dims.split())}], not {type(tensor).__name__}")
    rank = len(dims.split())
    if tensor.dim() != rank:
        raise ValueError(
            f"{name} must have {rank} dimensions [{', '.join(dims.split())}]; it has shape {list(tensor.shape)}"
        )
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} must be {_names(dtypes)}; it is {_names([tensor.dtype])}: convert it with .to(...)")


def check_same_device(**tensors: Tensor | None) -> None:
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"all tensors must be on one device: {where}")


def check_shape(name: str, tensor: Tensor, expected: Sequence[int], of: str) -> None:
    if list(tensor.shape) != list(expected):
        raise ValueError(f"{name} must have shape {list(expected)} to fit {of}; it has {list(tensor.shape)}")


def check_logits_and_labels(logits: Tensor, labels: Tensor) -> None:
    """What the losses take: a batch with pixels, logits at the labels' size or below."""
    check_tensor("logits", logits, "N C h w", FLOAT_DTYPES)
    check_tensor("labels", labels, "N H W", LABEL_DTYPES)
    N, _, h, w = logits.shape
    _, H, W = labels.shape
    if labels.shape[0] != N:
        raise ValueError(f"logits hold {N} images and labels {labels.shape[0]}: both must be the same batch")
    if 0 in logits.shape or 0 in labels.shape:
        raise ValueError(
            f"logits of shape {list(logits.shape)} and labels of shape {list(labels.shape)} hold no pixel to learn "
            f"from: skip empty batches"
        )
    if h > H or w > W:
        raise ValueError(
            f"logits of size {h}x{w} are larger than labels of size {H}x{W}: give the labels at full size, "
            f"or shrink the logits with torch.nn.functional.interpolate"
        )


def check_class_weight(class_weight: Tensor, logits: Tensor) -> None:
    check_tensor("class_weight", class_weight, "C", FLOAT_DTYPES)
    check_shape("class_weight", class_weight, logits.shape[1:2], "logits")
    if class_weight.requires_grad:
        raise ValueError("class_weight gets no gradient here: pass class_weight.detach()")


def check_label_values(labels: Tensor, classes: int, ignore_index: int) -> None:
    """Raises for the first label that is neither a class nor ignored. Reads the values: for references and
    DGSEG_DEBUG=1; the CPU kernels check as they go."""
    labels = labels.long()  # a number above 255 wraps when compared with uint8
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= classes))
    if bool(wrong.any()):
        at = [int(i) for i in wrong.nonzero()[0]]
        raise ValueError(label_message(int(labels[tuple(at)]), at[0], classes, ignore_index))


def label_message(value: int, image: int, classes: int, ignore_index: int) -> str:
    # csrc/common/torch.h words the CPU kernels' error the same way.
    return (
        f"labels hold {value} at batch index {image}; valid: 0 to {classes - 1}, or {ignore_index} to ignore: "
        f"map raw ids to train ids first"
    )
