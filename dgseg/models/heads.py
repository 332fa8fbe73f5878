"""The heads on four-stage backbones: SegFormer's, DAFormer's with HRDA's attention, DeepLabV2's. head(stages) ->
(logits, the map before dropout and classifier). Module names are the published checkpoints' key names."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.models.blocks import kaiming_init, resize_as


class ConvNormReLU(nn.Module):
    """`blocks.ConvNormReLU` under the published names, with a convolution of the caller's choice."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)

    def forward(self, *inputs: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(*inputs)), inplace=True)


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 1, *, dilation: int = 1, groups: int = 1) -> ConvNormReLU:
    padding = dilation * (kernel // 2)
    return ConvNormReLU(nn.Conv2d(inputs, outputs, kernel, 1, padding, dilation, groups, bias=False))


class Project(nn.Module):
    """A linear layer on the channels of a map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        projected: Tensor = self.proj(x_NCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return projected


class FuseLevels(nn.Conv2d):
    """The 1x1 convolution of the levels' concatenation at the first level's size. Upsampling and a 1x1 convolution
    commute, so each level goes through its own columns of the weight at its own size and only the sums are upsampled:
    a third of the multiplications, and the concatenation never exists."""

    def __init__(self, width: int, *, last_first: bool = False, levels: int = 4) -> None:
        super().__init__(levels * width, width, 1, bias=False)
        self.levels = levels
        self.last_first = last_first  # the order in which the published weight takes the levels

    def forward(self, *levels_NCHW: Tensor) -> Tensor:
        assert len(levels_NCHW) == self.levels
        parts = self.weight.flatten(1).chunk(self.levels, dim=1)
        if self.last_first:
            parts = parts[::-1]
        fused, *smaller = (
            F.linear(level.permute(0, 2, 3, 1), part).permute(0, 3, 1, 2)
            for level, part in zip(levels_NCHW, parts, strict=True)
        )
        for level in smaller:
            fused = fused + resize_as(level, fused)
        return fused


class SegFormerHead(nn.Module):
    def __init__(self, channels: Sequence[int], width: int, num_classes: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.width = width
        for index, inputs in enumerate(channels):
            self.add_module(f"linear_c{index + 1}", Project(inputs, width))
        self.linear_fuse = ConvNormReLU(FuseLevels(width, last_first=True))
        self.dropout = nn.Dropout2d(dropout)
        self.linear_pred = nn.Conv2d(width, num_classes, 1)
        init_head(self, self.linear_pred)

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        levels = [getattr(self, f"linear_c{index + 1}")(stage) for index, stage in enumerate(stages)]
        fused = self.linear_fuse(*levels)
        return self.linear_pred(self.dropout(fused)), fused


class SeparableConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.depthwise_conv = conv_norm_relu(inputs, inputs, 3, dilation=dilation, groups=inputs)
        self.pointwise_conv = conv_norm_relu(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        pointwise: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return pointwise


class SeparableASPP(nn.Module):
    """Dilated views of one map side by side, without the image-pooling branch."""

    def __init__(self, inputs: int, outputs: int, dilations: Sequence[int] = (1, 6, 12, 18)) -> None:
        super().__init__()
        branches = (conv_norm_relu(inputs, outputs) if d == 1 else SeparableConv(inputs, outputs, d) for d in dilations)
        self.aspp_modules = nn.ModuleList(branches)
        self.bottleneck = conv_norm_relu(len(dilations) * outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        fused: Tensor = self.bottleneck(torch.cat([branch(x) for branch in self.aspp_modules], dim=1))
        return fused


class DAFormerHead(nn.Module):
    """All levels at stride 4 in one context-aware fusion."""

    def __init__(self, channels: Sequence[int], num_classes: int, *, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed_layers = nn.ModuleList(Project(inputs, width) for inputs in channels)
        self.fuse_layer = self.fusion(len(channels), width)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        init_head(self, self.conv_seg)

    def fusion(self, levels: int, width: int) -> nn.Module:
        return SeparableASPP(levels * width, width)

    def fuse(self, levels: list[Tensor]) -> Tensor:
        first = levels[0]
        fused: Tensor = self.fuse_layer(torch.cat([first, *(resize_as(level, first) for level in levels[1:])], dim=1))
        return fused

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        fused = self.fuse([embed(stage) for embed, stage in zip(self.embed_layers, stages, strict=True)])
        return self.conv_seg(self.dropout(fused)), fused


class AttentionHead(DAFormerHead):
    """HRDA's scale attention: DAFormer's head with a 1x1 convolution in the place of the ASPP."""

    def fusion(self, levels: int, width: int) -> nn.Module:
        return ConvNormReLU(FuseLevels(width, levels=levels))

    def fuse(self, levels: list[Tensor]) -> Tensor:
        fused: Tensor = self.fuse_layer(*levels)
        return fused


class DilatedClassifier(nn.Module):
    def __init__(self, inputs: int, num_classes: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, num_classes, 3, padding=dilation, dilation=dilation)
        init_classifier(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv(x)
        return logits


class DeepLabV2Head(nn.Module):
    """The sum of dilated classifiers on the last stage. The papers' ResNet baselines keep the first two of DeepLabV2's
    rates 6, 12, 18, 24, as the adversarial adaptation code before them did."""

    def __init__(self, inputs: int, num_classes: int, *, dilations: Sequence[int] = (6, 12)) -> None:
        super().__init__()
        self.aspp_modules = nn.ModuleList()
        for dilation in dilations:
            self.aspp_modules.append(DilatedClassifier(inputs, num_classes, dilation))

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        first, *others = (branch(stages[-1]) for branch in self.aspp_modules)
        return sum(others, start=first), stages[-1]


def init_head(head: nn.Module, classifier: nn.Conv2d) -> None:
    head.apply(kaiming_init)
    init_classifier(classifier)


def init_classifier(classifier: nn.Conv2d) -> None:
    nn.init.normal_(classifier.weight, std=0.01)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)
