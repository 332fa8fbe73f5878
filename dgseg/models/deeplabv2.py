"""DeepLabV2 on ResNet-101 as domain adaptation uses it (Tsai et al., AdaptSegNet, CVPR 2018).

Stride in a block's first convolution, ceil-mode pooling, dilations 2 and 4 in the last two stages, batch norms with
frozen scale and shift, and a classifier that sums four dilated 3x3 convolutions.

Its authors' dense CRF, a post-processing, is left out: the library for it, pydensecrf, is no longer maintained and is
not on the package index for current Pythons.
"""

from torch import Tensor, nn

from dgseg.models.backbones.resnet import ResNet, build_resnet, dilate, stride_in_first_convolution
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Aux, Prediction
from dgseg.ops.constants import constant

BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)  # of 0..255


class DilatedSum(nn.Module):
    """A classifier of several fields of view, added up.

    branches: how many of them are added. The released AdaptSegNet code returns from inside its loop and so adds two;
    only with two does its checkpoint give its logits.
    """

    def __init__(self, inputs: int, num_classes: int, *, branches: int = 4) -> None:
        super().__init__()
        self.branches = branches
        convs = [nn.Conv2d(inputs, num_classes, 3, padding=rate, dilation=rate) for rate in (6, 12, 18, 24)]
        for conv in convs:
            nn.init.normal_(conv.weight, std=0.01)
        self.conv2d_list = nn.ModuleList(convs)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.conv2d_list[0](x)
        for conv in self.conv2d_list[1 : self.branches]:
            total = total + conv(x)
        return total


class DeepLabV2(SegmentationModel):
    """What the published checkpoints were trained and measured with: bgr: blue first, 0..255, mean taken off, not
    divided; align_corners: of the logits' upsampling in inference."""

    multiple = 8

    def __init__(
        self,
        num_classes: int,
        backbone: ResNet,
        *,
        multi_level: bool = False,
        branches: int = 4,
        bgr: bool = False,
        align_corners: bool = False,
        aux_weight: float = 0.1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(num_classes)
        if not 1 <= branches <= 4:
            raise ValueError(f"branches is {branches}: the classifier adds 1 to 4 dilated convolutions")
        self.checkpoint_stages(checkpointing)
        self.bgr, self.align_corners, self.aux_weight = bgr, align_corners, aux_weight
        stride_in_first_convolution(backbone)
        dilate(backbone.layer3, 2)
        dilate(backbone.layer4, 4)
        backbone.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.requires_grad_(False)
                module.bias.requires_grad_(False)
        self.backbone = backbone
        stage3, stage4 = backbone.channels[3:]
        self.aux_classifier = DilatedSum(stage3, num_classes, branches=branches) if multi_level else None
        self.classifier = DilatedSum(stage4, num_classes, branches=branches)

    def normalise(self, images: Tensor) -> Tensor:
        if not self.bgr:
            return super().normalise(images)
        mean = constant(BGR_MEAN, images.device).view(1, 3, 1, 1)
        return images.flip(1).float() - mean

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        trunk = self.backbone
        stage1 = self.stage(trunk.layer1, trunk.stem(images))
        stage2 = self.stage(trunk.layer2, stage1)
        stage3 = self.stage(trunk.layer3, stage2)
        stage4 = self.stage(trunk.layer4, stage3)
        aux = []
        if self.training and self.aux_classifier is not None:
            aux = [Aux(self.aux_classifier(stage3), self.aux_weight)]
        features = {
            "stage1": stage1,
            "stage2": stage2,
            "stage3": stage3,
            "stage4": stage4,
            "decoder": stage4,
            "pre_classifier": stage4,
        }
        return Prediction(self.classifier(stage4), features, aux, {})


def deeplabv2_r101(
    num_classes: int,
    pretrained: bool | str,
    *,
    multi_level: bool = False,
    branches: int = 4,
    bgr: bool = False,
    align_corners: bool = False,
    aux_weight: float = 0.1,
    layers: tuple[int, int, int, int] | None = None,
    checkpointing: bool = False,
) -> SegmentationModel:
    """multi_level: a second classifier on the third stage; layers: blocks per stage, for smaller ones."""
    return DeepLabV2(
        num_classes,
        build_resnet(101, pretrained, layers),
        multi_level=multi_level,
        branches=branches,
        bgr=bgr,
        align_corners=align_corners,
        aux_weight=aux_weight,
        checkpointing=checkpointing,
    )
