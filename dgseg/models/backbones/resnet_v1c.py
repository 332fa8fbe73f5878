"""ResNet-101 V1c at stride 8: three 3x3 convolutions in place of the 7x7 stem, stride in each block's 3x3 convolution,
dilation 2 and 4 in the last two stages with the first block of each still at the dilation before it. timm's
`resnet101c` is this network; here it carries the names of the published checkpoints."""

import timm
from torch import Tensor, nn

WEIGHTS = "hf:timm/resnet101c.gluon_in1k/model.safetensors"


class ResNetV1c(nn.Module):
    """`backbone(x, stage)` runs one stage, 0 to 3; the stem belongs to the first."""

    def __init__(self, layers: tuple[int, ...] = (3, 4, 23, 3)) -> None:
        super().__init__()
        resnet = timm.create_model("resnet101c", pretrained=False, output_stride=8, layers=layers)
        self.channels = [256, 512, 1024, 2048]
        self.stem = nn.Sequential(*resnet.conv1, resnet.bn1, resnet.act1)
        self.maxpool = resnet.maxpool
        for stage in range(1, 5):
            self.add_module(f"layer{stage}", getattr(resnet, f"layer{stage}"))

    def forward(self, x: Tensor, stage: int) -> Tensor:
        if stage == 0:
            x = self.maxpool(self.stem(x))
        features: Tensor = getattr(self, f"layer{stage + 1}")(x)
        return features
