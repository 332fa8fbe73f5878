"""Instance norms inside a trunk, where RobustNet, IBN-Net's form b and BlindNet have them: their maps are given out,
because losses are taken on them (whitening, covariance matching, cross-covariance).

A position is a stage: 0 the stem, 1 to 4 the trunk's layers. Affine-free norms are RobustNet's and BlindNet's, affine
ones IBN-Net's.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class NormedTail(nn.Sequential):
    """Blocks, then an instance norm, which sits in the last block. Returns the output and the norm's map."""

    def __init__(self, blocks: nn.Sequential, channels: int, affine: bool) -> None:
        super().__init__(*blocks)
        last: nn.Module = self[-1]
        last.instance_norm_layer = nn.InstanceNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        blocks: Any = self
        for block in blocks:
            x = block(x)
        normed: Tensor = blocks[-1].instance_norm_layer(x)
        return normed, normed


class NormedResidualTail(NormedTail):
    """For ResNet's bottlenecks: the norm comes after the last block's sum, before its ReLU."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        blocks: Any = self
        *before, last = blocks
        for block in before:
            x = block(x)
        branch = last.relu(last.bn1(last.conv1(x)))
        branch = last.relu(last.bn2(last.conv2(branch)))
        branch = last.bn3(last.conv3(branch))
        normed = last.instance_norm_layer(branch + (x if last.downsample is None else last.downsample(x)))
        return F.relu(normed), normed  # the map is kept, so not in place


class NormedStem(nn.Sequential):
    """Convolution, instance norm in place of the batch norm, ReLU, pooling."""

    def __init__(self, convolution: nn.Conv2d, pooling: nn.Module, affine: bool) -> None:
        norm = nn.InstanceNorm2d(convolution.out_channels, affine=affine)
        super().__init__(convolution, norm, nn.ReLU(), pooling)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        normed: Tensor = self[1](self[0](x))
        return self[3](self[2](normed)), normed
