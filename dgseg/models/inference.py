"""From images to full-resolution logits: whole or in sliding windows, one function.

The published protocol, exactly: each window's logits are brought to the window's size, summed where windows overlap
and divided by the number of windows there, and only then brought to the labels' size.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.models.base import SegmentationModel
from dgseg.models.windows import window_starts


@torch.no_grad()
def predict_logits(
    model: SegmentationModel,
    images: Tensor,
    *,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    windows_per_batch: int | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Logits [N, C, H, W] in float32, at the images' size or at `size`.

    window, stride: (height, width) or one number for both; no window is whole-image inference, no stride half a
    window; an image smaller than the window is one window. windows_per_batch: how many windows (of all the images)
    run at once; None is as many as there are images. Sides that are no multiple of what the model needs are padded
    with the mean colour, and the logits cropped back. Memory: the logits and one batch of windows. Autocast is the
    caller's.
    """
    if model.training:
        raise ValueError("inference needs the model in eval mode: call model.eval() first")
    model.check(images)
    if images.dtype == torch.uint8:
        images = model.normalise(images)
    count, _, *image_size = images.shape
    sides = [min(w, side) for w, side in zip(_pair(window, "window", image_size), image_size, strict=True)]
    strides = _pair(stride, "stride", [max(side // 2, 1) for side in sides])
    if window is None and stride is not None:
        raise ValueError("stride is given without a window; give both, or neither for whole-image inference")
    if any(s > w for s, w, side in zip(strides, sides, image_size, strict=True) if w < side):
        raise ValueError(f"stride {strides} leaves gaps between windows of {sides}; it may be at most the window")
    batch = count if windows_per_batch is None else windows_per_batch
    if batch < 1:
        raise ValueError(f"windows_per_batch must be at least 1; it is {batch}")

    starts = [window_starts(side, w, s) for side, w, s in zip(image_size, sides, strides, strict=True)]
    jobs = list(product(range(count), *starts))
    total = images.new_zeros(count, model.num_classes, *image_size, dtype=torch.float32)
    for begin in range(0, len(jobs), batch):
        places = [
            (image, slice(top, top + sides[0]), slice(left, left + sides[1]))
            for image, top, left in jobs[begin : begin + batch]
        ]
        windows = torch.stack([images[image, :, rows, columns] for image, rows, columns in places])
        for (image, rows, columns), logits in zip(places, _window_logits(model, windows), strict=True):
            total[image, :, rows, columns] += logits
    if len(jobs) > count:
        over_rows, over_columns = (_cover(*of) for of in zip(starts, sides, image_size, strict=True))
        total /= (over_rows[:, None] * over_columns).to(total)
    if size is not None and tuple(size) != tuple(image_size):
        total = F.interpolate(total, size=size, mode="bilinear", align_corners=model.align_corners)
    return total


def _window_logits(model: SegmentationModel, windows: Tensor) -> Tensor:
    height, width = windows.shape[-2:]
    padded = F.pad(windows, (0, -width % model.multiple, 0, -height % model.multiple))
    logits = model(padded).logits.float()
    logits = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=model.align_corners)
    return logits[..., :height, :width]


def _cover(starts: list[int], window: int, length: int) -> Tensor:
    """How many windows lie over each row (or column)."""
    cover = torch.zeros(length)
    for start in starts:
        cover[start : start + window] += 1
    return cover


def _pair(value: int | tuple[int, int] | None, name: str, default: list[int]) -> list[int]:
    pair = default if value is None else [value, value] if isinstance(value, int) else list(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} must be one positive number or (height, width); it is {value}")
    return pair
