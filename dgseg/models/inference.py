"""From images to full-resolution logits: whole or in sliding windows, one function; and the same a few rows at a time,
for images whose logits fill the memory.

The published protocol, exactly: each window's logits are brought to the window's size, summed where windows overlap
and divided by the number of windows there, and only then brought to the labels' size.
"""

from collections.abc import Iterator
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
    run at once; None is as many as there are images. Sides that are too short for the model, or no multiple of what it
    needs, are padded with the mean colour, and the logits cropped back. Memory: the logits and one batch of windows.
    Autocast is the caller's.
    """
    count, _, *image_size = images.shape
    batch = count if windows_per_batch is None else windows_per_batch
    sides, starts = _windows(model, images, window, stride, batch)
    if images.dtype == torch.uint8:
        images = model.normalise(images)
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


@torch.no_grad()
def predict_strips(
    model: SegmentationModel,
    image: Tensor,
    *,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    windows_per_batch: int = 1,
) -> Iterator[tuple[slice, Tensor]]:
    """What predict_logits gives for one image [1, 3, H, W], from top to bottom: rows, and their logits [C, rows, W].
    Memory: logits as high as one window."""
    if len(image) != 1:
        raise ValueError(f"strips are of one image; these are {len(image)}")
    height, width = image.shape[-2:]
    sides, (tops, lefts) = _windows(model, image, window, stride, windows_per_batch)
    over_rows, over_columns = (_cover(*of) for of in zip((tops, lefts), sides, (height, width), strict=True))
    total = torch.zeros(model.num_classes, sides[0], width, device=image.device)
    for top, below in zip(tops, [*tops[1:], height], strict=True):
        for begin in range(0, len(lefts), windows_per_batch):
            places = lefts[begin : begin + windows_per_batch]
            windows = torch.cat([image[..., top : top + sides[0], left : left + sides[1]] for left in places])
            if windows.dtype == torch.uint8:
                windows = model.normalise(windows)
            for left, logits in zip(places, _window_logits(model, windows), strict=True):
                total[..., left : left + sides[1]] += logits
        # Rows above the next window are done.
        done = total[:, : below - top]
        if len(tops) * len(lefts) > 1:
            done /= (over_rows[top:below, None] * over_columns).to(total)
        yield slice(top, below), done
        if below < height:
            total = torch.cat([total[:, below - top :], torch.zeros_like(done)], 1)


def _windows(
    model: SegmentationModel,
    images: Tensor,
    window: int | tuple[int, int] | None,
    stride: int | tuple[int, int] | None,
    batch: int,
) -> tuple[list[int], list[list[int]]]:
    """The window's height and width, and where windows begin in both directions."""
    if model.training:
        raise ValueError("inference needs the model in eval mode: call model.eval() first")
    model.check(images, minimum=1)
    image_size = list(images.shape[-2:])
    sides = [min(w, side) for w, side in zip(_pair(window, "window", image_size), image_size, strict=True)]
    strides = _pair(stride, "stride", [max(side // 2, 1) for side in sides])
    if window is None and stride is not None:
        raise ValueError("stride is given without a window; give both, or neither for whole-image inference")
    if any(s > w for s, w, side in zip(strides, sides, image_size, strict=True) if w < side):
        raise ValueError(f"stride {strides} leaves gaps between windows of {sides}; it may be at most the window")
    if batch < 1:
        raise ValueError(f"windows_per_batch must be at least 1; it is {batch}")
    return sides, [window_starts(side, w, s) for side, w, s in zip(image_size, sides, strides, strict=True)]


def padded(model: SegmentationModel, images: Tensor) -> Tensor:
    """Normalised images with the mean colour to their right and below, as far as the model needs it."""
    height, width = images.shape[-2:]
    right, bottom = (max(model.minimum - side, 0) for side in (width, height))
    return F.pad(
        images, (0, right + -(width + right) % model.multiple, 0, bottom + -(height + bottom) % model.multiple)
    )


def _window_logits(model: SegmentationModel, windows: Tensor) -> Tensor:
    height, width = windows.shape[-2:]
    wide = padded(model, windows)
    logits = model(wide).logits.float()
    logits = F.interpolate(logits, size=wide.shape[-2:], mode="bilinear", align_corners=model.align_corners)
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
