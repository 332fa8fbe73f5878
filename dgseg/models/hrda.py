"""HRDA: the whole image at half resolution for context, crops at full resolution for detail, and a learned attention
per class and pixel that says which of the two to believe.

Sizes: one cell of the context prediction is 2·stride pixels of the image, one of the detail prediction `stride`
(4 with MiT, 8 with ResNet-101). Crops begin on context cells, so both predictions meet without resampling.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.models.backbones.mit import MIT_SIZES, MIT_WEIGHTS, MiTSize, MixTransformer
from dgseg.models.backbones.pretrained import pretrained_backbone
from dgseg.models.base import SegmentationModel
from dgseg.models.encoder_decoder import EncoderDecoder, named_features
from dgseg.models.heads import AttentionHead, DAFormerHead, DeepLabV2Head
from dgseg.models.prediction import Aux, Box, Prediction
from dgseg.models.windows import window_starts

DETAIL_WEIGHT = 0.1  # of the loss on the detail crop; the fused prediction has the rest


class HRDAHead(nn.Module):
    """One head for both resolutions, and the attention between them."""

    def __init__(self, head: nn.Module, scale_attention: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.scale_attention = scale_attention

    def forward(self, stages: list[Tensor], *, attention: bool = False) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = (self.scale_attention if attention else self.head)(stages)
        return result


class HRDA(EncoderDecoder):
    """A training step calls `model(images, seed=…, step=…)`. Compiled, a step given as a 0-d int64 tensor never
    compiles again; a plain number does once, at its second value."""

    minimum = 64  # the context image is half of it

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        head: nn.Module,
        scale_attention: nn.Module,
        *,
        stride: int,
        detail: int | None = None,
        windows_per_batch: int = 9,
        checkpointing: bool = False,
    ) -> None:
        """detail: side of the detail crops; None: half of the image's sides. windows_per_batch: how many detail
        windows of inference run at once; half the side, overlapping by half, makes nine."""
        super().__init__(num_classes, backbone, HRDAHead(head, scale_attention), checkpointing=checkpointing)
        self.stride = stride
        self.multiple = 2 * stride
        if detail is not None and (detail < 32 or detail % self.multiple):
            raise ValueError(f"detail must be a multiple of {self.multiple} and at least 32; it is {detail}")
        if windows_per_batch < 1:
            raise ValueError(f"windows_per_batch must be at least 1; it is {windows_per_batch}")
        self.detail = detail
        self.windows_per_batch = windows_per_batch

    @property
    def dynamic_multiple(self) -> int:
        return 2 * self.multiple  # half of a side is a detail window, exactly: always nine

    def detail_side(self, side: int) -> int:
        """Half, rounded up to whole context cells."""
        half = -(-side // (2 * self.multiple)) * self.multiple
        return half if self.detail is None else min(self.detail, side)

    def predict(self, images: Tensor, *, seed: int | Tensor, step: int | Tensor) -> Prediction:
        height, width = images.shape[-2:]
        right, bottom = -width % self.multiple, -height % self.multiple
        if right or bottom:
            if self.training:
                raise ValueError(
                    f"HRDA trains on sides that are multiples of {self.multiple}; the images are {height}x{width}"
                )
            images = F.pad(images, (0, right, 0, bottom))
        context = self.encode(F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False))
        context_logits, decoder = self.decode_head(context)
        attention = torch.sigmoid(self.decode_head(context, attention=True)[0])
        features = named_features(context, decoder)
        extra: dict[str, Any] = {"scale_attention": attention, "context_logits": context_logits}
        if self.training:
            box = self.crop_box(images, seed, step)
            detail_logits = self.decode_head(self.encode(crop(images, box)))[0]
            logits = self.fuse_crop(context_logits, attention, detail_logits, box)
            extra["weight"] = 1 - DETAIL_WEIGHT
            return Prediction(logits, features, [Aux(detail_logits, DETAIL_WEIGHT, box)], extra)
        logits = fuse(context_logits, attention, self.detail_logits(images))
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        return Prediction(logits[..., :rows, :columns], features, [], extra)

    def crop_box(self, images: Tensor, seed: int | Tensor, step: int | Tensor) -> Box:
        """One crop for the batch, the same on every rank, anywhere on the grid of context cells, the last included."""
        if torch.compiler.is_compiling() and isinstance(step, int):
            # A number in the graph would be compiled in, and every step would compile again.
            step = torch.full((), step, dtype=torch.int64, device=images.device)
        offsets = []
        for axis, side in enumerate(images.shape[-2:]):
            places = (side - self.detail_side(side)) // self.multiple + 1
            offsets.append(scramble(seed, step, axis) % places * self.multiple)
        return Box(offsets[0], offsets[1], self.detail_side(images.shape[-2]), self.detail_side(images.shape[-1]))

    def fuse_crop(self, context_NChw: Tensor, attention_NChw: Tensor, detail_NChw: Tensor, box: Box) -> Tensor:
        """Outside the crop the attention is zero: the context alone decides."""
        rows, columns = (
            _inside(offset, length, cells, self.multiple, context_NChw.device)
            for offset, length, cells in zip(box[:2], box[2:], context_NChw.shape[-2:], strict=True)
        )
        inside = rows[:, None] & columns
        canvas = detail_NChw.new_zeros(*context_NChw.shape[:2], *(2 * side for side in context_NChw.shape[-2:]))
        rows, columns = (
            offset // self.stride + torch.arange(cells, device=canvas.device)
            for offset, cells in zip(box[:2], detail_NChw.shape[-2:], strict=True)
        )
        canvas[:, :, rows[:, None], columns] = detail_NChw
        return fuse(context_NChw, attention_NChw * inside, canvas)

    def detail_logits(self, images: Tensor) -> Tensor:
        """The mean of overlapping detail windows, half a window apart, on the detail grid of the whole image."""
        height, width = images.shape[-2:]
        sides = self.detail_side(height), self.detail_side(width)
        starts = [window_starts(length, side, side // 2) for length, side in zip((height, width), sides, strict=True)]
        corners = [(top, left) for top in starts[0] for left in starts[1]]
        total: Tensor | None = None
        counts = images.new_zeros(height // self.stride, width // self.stride)
        for chunk in _chunks(corners, self.windows_per_batch):
            windows = torch.cat([images[:, :, top : top + sides[0], left : left + sides[1]] for top, left in chunk])
            logits = self.decode_head(self.encode(windows))[0]
            if total is None:
                total = logits.new_zeros(images.shape[0], self.num_classes, *counts.shape)
            for part, (top, left) in zip(logits.unflatten(0, (len(chunk), -1)), chunk, strict=True):
                there = (
                    slice(top // self.stride, (top + sides[0]) // self.stride),
                    slice(left // self.stride, (left + sides[1]) // self.stride),
                )
                total[(..., *there)] += part
                counts[there] += 1
        assert total is not None
        return total / counts.to(total.dtype)


def fuse(context_NChw: Tensor, attention_NChw: Tensor, detail_NCHW: Tensor) -> Tensor:
    """In logit space: what the attention leaves of the context, upsampled, and what it takes of the detail."""
    context = F.interpolate((1 - attention_NChw) * context_NChw, scale_factor=2, mode="bilinear", align_corners=False)
    attention = F.interpolate(attention_NChw, scale_factor=2, mode="bilinear", align_corners=False)
    return context + attention * detail_NCHW


def crop(images: Tensor, box: Box) -> Tensor:
    if isinstance(box.top, int) and isinstance(box.left, int):
        return images[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    rows = box.top + torch.arange(box.height, device=images.device)
    columns = box.left + torch.arange(box.width, device=images.device)
    return images.index_select(2, rows).index_select(3, columns)


def _inside(offset: int | Tensor, length: int, cells: int, pixels: int, device: torch.device) -> Tensor:
    cell = torch.arange(cells, device=device)
    first = offset // pixels
    return (cell >= first) & (cell < first + length // pixels)


def _chunks(items: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


_PRIME = 2**31 - 1


def scramble(seed: int | Tensor, step: int | Tensor, axis: int) -> Any:
    """A number below 2³¹ - 1 that looks random. The fifth power permutes the residues of this prime, and every
    product stays below 2⁶³: numbers and int64 tensors give the same, inside compiled graphs too."""
    x: Any = axis + 1
    for value in (seed, step, 0):
        x = (x * 1_103_515_245 + value % _PRIME + 12_345) % _PRIME
        square = x * x % _PRIME
        x = square * square % _PRIME * x % _PRIME
    return x


def mit_hrda(
    size: str,
    num_classes: int,
    pretrained: bool | str,
    *,
    width: int = 256,
    drop_path: float = 0.1,
    dropout: float = 0.1,
    mit: MiTSize | None = None,
    **options: Any,
) -> SegmentationModel:
    """mit: another transformer size than the name's, for small experiments."""
    backbone = MixTransformer(mit or MIT_SIZES[size], drop_path=drop_path)
    pretrained_backbone(backbone, pretrained, MIT_WEIGHTS.format(size))
    head = DAFormerHead(backbone.channels, num_classes, width=width, dropout=dropout)
    attention = AttentionHead(backbone.channels, num_classes, width=width, dropout=dropout)
    return HRDA(num_classes, backbone, head, attention, stride=4, **options)


def mitb5(num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
    return mit_hrda("b5", num_classes, pretrained, **options)


def mitb0(num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
    return mit_hrda("b0", num_classes, pretrained, **options)


def r101(
    num_classes: int, pretrained: bool | str, *, layers: tuple[int, ...] = (3, 4, 23, 3), **options: Any
) -> SegmentationModel:
    """layers: another depth than the name's, for small experiments.

    The published configuration draws crops on an 8-pixel grid here too, which puts every second one half a context
    cell beside its mask; ours stay on whole cells, 16 pixels. Inference is not touched by it.
    """
    from dgseg.models.backbones.resnet_v1c import WEIGHTS, ResNetV1c

    backbone = ResNetV1c(layers)
    pretrained_backbone(backbone, pretrained, WEIGHTS)
    heads = [DeepLabV2Head(backbone.channels[-1], num_classes) for _ in range(2)]
    return HRDA(num_classes, backbone, *heads, stride=8, **options)
