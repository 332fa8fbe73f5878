"""Instance norms inside a trunk, where RobustNet, IBN-Net's form b and BlindNet have them: their maps are given out,
because losses are taken on them (whitening, covariance matching, cross-covariance).

A position is a stage: 0 the stem, 1 to 4 the trunk's layers. Affine-free norms are RobustNet's and BlindNet's, affine
ones IBN-Net's.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenetv2, resnet, shufflenetv2

from dgseg.models.norms import InstanceNorm

Normed = tuple[Tensor, Tensor]  # a block's output and the norm's map


class NormedBottleneck(resnet.Bottleneck):  # type: ignore[misc]
    """The norm comes after the sum, before its ReLU."""

    def forward(self, x: Tensor) -> Normed:
        block: Any = self
        branch = block.relu(block.bn1(block.conv1(x)))
        branch = block.relu(block.bn2(block.conv2(branch)))
        branch = block.bn3(block.conv3(branch))
        normed = block.instance_norm_layer(branch + (x if block.downsample is None else block.downsample(x)))
        return F.relu(normed), normed  # the map is kept, so not in place


class NormedMobileBlock(mobilenetv2.InvertedResidual):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Normed:
        block: Any = self
        normed = block.instance_norm_layer(super().forward(x))
        return normed, normed


class NormedShuffleBlock(shufflenetv2.InvertedResidual):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Normed:
        block: Any = self
        normed = block.instance_norm_layer(super().forward(x))
        return normed, normed


NORMED: dict[type[nn.Module], type[nn.Module]] = {
    resnet.Bottleneck: NormedBottleneck,
    mobilenetv2.InvertedResidual: NormedMobileBlock,
    shufflenetv2.InvertedResidual: NormedShuffleBlock,
}


def norm_after(blocks: nn.Sequential, channels: int, affine: bool) -> None:
    """An instance norm at the end of the last block, as a part of it: what shards or compiles a model block by block
    then finds the block's parameters used in its own forward pass alone. The blocks now return what it returns."""
    last: nn.Module = blocks[-1]
    last.__class__ = NORMED[type(last)]
    last.instance_norm_layer = InstanceNorm(channels, affine=affine)


class NormedStem(nn.Sequential):
    """Convolution, instance norm in place of the batch norm, ReLU, pooling."""

    def __init__(self, convolution: nn.Conv2d, pooling: nn.Module, affine: bool) -> None:
        norm = InstanceNorm(convolution.out_channels, affine=affine)
        super().__init__(convolution, norm, nn.ReLU(), pooling)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        normed: Tensor = self[1](self[0](x))
        return self[3](self[2](normed)), normed
