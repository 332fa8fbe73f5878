"""BiSeNet's idea at a size that two CPU cores train: a detail path at stride 4 beside a context path to stride 32.

Plain 3x3 convolutions throughout: on a CPU a depthwise convolution's backward costs more than the dense one it saves.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.models.base import SegmentationModel
from dgseg.models.blocks import ConvNormReLU, kaiming_init, resize_as
from dgseg.models.prediction import Aux, Prediction


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNormReLU(inputs, outputs, stride=stride)
        self.conv2 = ConvNormReLU(outputs, outputs, relu=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = ConvNormReLU(inputs, outputs, 1, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Attention(nn.Module):
    """One gate per channel, from the map's mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


class BiSeNetMini(SegmentationModel):
    multiple = 32

    def __init__(self, num_classes: int, *, width: int = 32, decoder: int = 64, checkpointing: bool = False) -> None:
        super().__init__(num_classes)
        w = width
        self.checkpoint_stages(checkpointing)
        self.stem = ConvNormReLU(3, w // 2, stride=2)
        self.stage1 = ConvNormReLU(w // 2, w, stride=2)
        self.detail = ConvNormReLU(w, decoder)
        self.stage2 = nn.Sequential(Residual(w, 2 * w, 2))
        self.stage3 = nn.Sequential(Residual(2 * w, 4 * w, 2), Residual(4 * w, 4 * w))
        self.stage4 = nn.Sequential(Residual(4 * w, 6 * w, 2), Attention(6 * w))
        self.lateral2 = ConvNormReLU(2 * w, decoder, 1)
        self.lateral3 = ConvNormReLU(4 * w, decoder, 1)
        self.lateral4 = ConvNormReLU(6 * w, decoder, 1)
        self.smooth2 = ConvNormReLU(decoder, decoder)
        self.attention = Attention(decoder)
        self.fuse = ConvNormReLU(decoder, decoder)
        self.classifier = nn.Conv2d(decoder, num_classes, 1)
        self.aux3 = nn.Sequential(ConvNormReLU(4 * w, decoder), nn.Conv2d(decoder, num_classes, 1))
        self.apply(kaiming_init)

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        stage1 = self.stage(self.stage1, self.stem(images))
        stage2 = self.stage(self.stage2, stage1)
        stage3 = self.stage(self.stage3, stage2)
        stage4 = self.stage(self.stage4, stage3)
        context = self.lateral4(stage4)
        context = resize_as(context, stage3) + self.lateral3(stage3)
        context = self.attention(self.smooth2(resize_as(context, stage2) + self.lateral2(stage2)))
        decoder = self.fuse(self.detail(stage1) + resize_as(context, stage1))
        aux = [Aux(self.aux3(stage3), 0.4)] if self.training else []
        features = {
            "stage1": stage1,
            "stage2": stage2,
            "stage3": stage3,
            "stage4": stage4,
            "decoder": decoder,
            "pre_classifier": decoder,
        }
        return Prediction(self.classifier(decoder), features, aux, {})


def bisenet_mini(num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
    if pretrained:
        raise ValueError(
            "no weights are published for bisenet_mini: leave pretrained=False, load yours by load_weights"
        )
    return BiSeNetMini(num_classes, **options)
