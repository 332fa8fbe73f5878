"""ResNets: torchvision's, under torchvision's key names, with strides and dilations where each paper has them."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights, ResNet101_Weights, resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from dgseg.models.backbones.normed_blocks import norm_after
from dgseg.models.backbones.pretrained import pretrained_backbone
from dgseg.models.norms import InstanceNorm

# What the papers start from: torchvision's first weights, not the later recipe's.
_KINDS: dict[int, tuple[Any, tuple[int, ...], str]] = {
    18: (BasicBlock, (2, 2, 2, 2), ResNet18_Weights.IMAGENET1K_V1.url),
    50: (Bottleneck, (3, 4, 6, 3), ResNet50_Weights.IMAGENET1K_V1.url),
    101: (Bottleneck, (3, 4, 23, 3), ResNet101_Weights.IMAGENET1K_V1.url),
}


class ResNet(nn.Module):
    """Without the classifier; the model calls stem and layers itself, so that it can checkpoint each."""

    norm_positions = (0, 1, 2, 3, 4)

    def __init__(self, kind: int, layers: tuple[int, ...] | None = None) -> None:
        super().__init__()
        block, published, self.source = _KINDS[kind]
        trunk = resnet.ResNet(block, list(layers or published))
        self.conv1, self.bn1, self.relu, self.maxpool = trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        self.channels: list[int] = [64, *(64 * 2**i * block.expansion for i in range(4))]  # stem, layer1 … layer4

    def stem(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return pooled

    def layer0(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The stem, and the map of the instance norm in it if there is one."""
        if not isinstance(self.bn1, nn.InstanceNorm2d):  # a batch norm, or what folding leaves of it
            return self.stem(images)
        normed = self.bn1(self.conv1(images))
        return self.maxpool(torch.relu(normed)), normed  # the map is kept, so not in place

    def dilate(self, output_stride: int) -> None:
        if output_stride == 8:
            dilate(self.layer3, 2)
        dilate(self.layer4, 32 // output_stride)

    def place_norms(self, positions: tuple[int, ...], affine: bool) -> None:
        for position in positions:
            if position == 0:
                self.bn1 = InstanceNorm(self.conv1.out_channels, affine=affine)
                continue
            norm_after(getattr(self, f"layer{position}"), self.channels[position], affine)


def dilate(layer: nn.Sequential, dilation: int) -> None:
    """No stride in this layer, and every 3x3 convolution dilated, the first block's too (torchvision's own option
    leaves that one at the dilation before)."""
    for block in layer:
        assert isinstance(block, Bottleneck)
        block.conv1.stride = block.conv2.stride = (1, 1)
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)
        if block.downsample is not None:
            block.downsample[0].stride = (1, 1)


def stride_in_first_convolution(trunk: ResNet) -> None:
    """As the first ResNets in Caffe had it; torchvision strides in the 3x3."""
    for layer in (trunk.layer2, trunk.layer3, trunk.layer4):
        first = layer[0]
        assert isinstance(first, Bottleneck)
        first.conv1.stride, first.conv2.stride = first.conv2.stride, (1, 1)


def build_resnet(kind: Literal[18, 50, 101], pretrained: bool | str, layers: tuple[int, ...] | None = None) -> ResNet:
    trunk = ResNet(kind, layers)
    pretrained_backbone(trunk, pretrained, trunk.source)
    return trunk
