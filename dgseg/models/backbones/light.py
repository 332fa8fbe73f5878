"""torchvision's ShuffleNetV2 and MobileNetV2 in five layers, cut where RobustNet cuts them."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models import MobileNet_V2_Weights, ShuffleNet_V2_X1_0_Weights, mobilenet_v2, shufflenet_v2_x1_0

from dgseg.models.backbones.normed_blocks import NormedStem, norm_after
from dgseg.models.backbones.pretrained import pretrained_backbone


class LightTrunk(nn.Module):
    """layer0 to layer4, each a Sequential; channels: of all five."""

    channels: tuple[int, ...]
    norm_positions: tuple[int, ...]  # where RobustNet can put an instance norm

    def __init__(self, *layers: nn.Sequential) -> None:
        super().__init__()
        self.layer0, self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def dilate(self, output_stride: int) -> None:
        """Only the convolutions that were strided: what the published code does."""
        rates = {16: {3: 2}, 8: {2: 2, 3: 4}}[output_stride]
        for position, rate in rates.items():
            for module in getattr(self, f"layer{position}").modules():
                if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                    module.stride, module.dilation, module.padding = (1, 1), (rate, rate), (rate, rate)

    def place_norms(self, positions: tuple[int, ...], affine: bool) -> None:
        for position in positions:
            norm_after(getattr(self, f"layer{position}"), self.channels[position], affine)


class ShuffleNetV2(LightTrunk):
    channels = (24, 116, 232, 464, 1024)
    norm_positions = (0, 1, 2, 3)

    def __init__(self) -> None:
        net = shufflenet_v2_x1_0(weights=None)
        stem = nn.Sequential(*net.conv1, net.maxpool)
        super().__init__(stem, net.stage2, net.stage3, net.stage4, net.conv5)

    def place_norms(self, positions: tuple[int, ...], affine: bool) -> None:
        if 0 in positions:
            convolution, _, _, pooling = self.layer0
            assert isinstance(convolution, nn.Conv2d)
            self.layer0 = NormedStem(convolution, pooling, affine)
        super().place_norms(tuple(p for p in positions if p), affine)


class MobileNetV2(LightTrunk):
    channels = (16, 32, 64, 320, 1280)
    norm_positions = (0, 1, 2, 3)

    def __init__(self) -> None:
        blocks = list(mobilenet_v2(weights=None).features)
        cuts = ((0, 2), (2, 7), (7, 11), (11, 18), (18, 19))
        super().__init__(*(nn.Sequential(*blocks[first:end]) for first, end in cuts))


_KINDS: dict[str, tuple[Callable[[], LightTrunk], Any]] = {
    "shufflenetv2": (ShuffleNetV2, ShuffleNet_V2_X1_0_Weights),
    "mobilenetv2": (MobileNetV2, MobileNet_V2_Weights),
}


def build_light(name: str, pretrained: bool | str) -> LightTrunk:
    kind, weights = _KINDS[name]
    trunk = kind()
    pretrained_backbone(trunk, pretrained, weights.IMAGENET1K_V1.url)
    return trunk
