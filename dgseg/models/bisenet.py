"""BiSeNet on ResNet-18 (Yu et al., ECCV 2018) in the form that the real-time domain adaptation study measures.

A spatial path of three strided convolutions keeps detail at stride 8; a ResNet gives context, each of its last two
stages reweighed by an attention per channel; a fusion module mixes them. The published code upsamples before its 1x1
classifiers; those commute with bilinear interpolation, so here they run first, on few pixels.
"""

import torch
from torch import Tensor, nn

from dgseg.models.backbones.resnet import ResNet, build_resnet
from dgseg.models.base import SegmentationModel
from dgseg.models.blocks import ConvNormReLU, kaiming_init, pool, resize_as
from dgseg.models.prediction import Aux, Prediction


class AttentionRefinement(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.bn(self.conv(pool(x, self.bn))))


class FeatureFusion(nn.Module):
    """Down to one channel per class, then x + x · attention."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.convblock = ConvNormReLU(inputs, num_classes)
        self.conv1 = nn.Conv2d(num_classes, num_classes, 1)
        self.conv2 = nn.Conv2d(num_classes, num_classes, 1)

    def forward(self, spatial: Tensor, context16: Tensor, context32: Tensor) -> Tensor:
        x: Tensor = self.convblock(torch.cat([spatial, context16, context32], 1))
        gate = torch.sigmoid(self.conv2(torch.relu(self.conv1(x.mean((2, 3), keepdim=True)))))
        return x + x * gate


class BiSeNet(SegmentationModel):
    multiple = 32

    def __init__(self, num_classes: int, backbone: ResNet, *, aux_weight: float, checkpointing: bool) -> None:
        super().__init__(num_classes)
        self.checkpoint_stages(checkpointing)
        self.aux_weight = aux_weight
        stage3, stage4 = backbone.channels[3:]
        self.spatial_path = nn.Sequential(
            ConvNormReLU(3, 64, stride=2), ConvNormReLU(64, 128, stride=2), ConvNormReLU(128, 256, stride=2)
        )
        self.attention_refinement_module1 = AttentionRefinement(stage3)
        self.attention_refinement_module2 = AttentionRefinement(stage4)
        self.supervision1 = nn.Conv2d(stage3, num_classes, 1)
        self.supervision2 = nn.Conv2d(stage4, num_classes, 1)
        self.feature_fusion_module = FeatureFusion(256 + stage3 + stage4, num_classes)
        self.conv = nn.Conv2d(num_classes, num_classes, 1)
        self.apply(kaiming_init)
        self.backbone = backbone  # last: its own initialisation, or its weights, stay

    def published_surplus(self, height: int, width: int) -> tuple[int, int]:
        # ResNet's classifier, which the published code carries along and never calls; and its last convolution at input
        # resolution instead of an eighth of it, after an upsampling at fvcore's four operations a value.
        unused = 512 * 1000 + 1000
        pixels = height * width
        conv = (pixels - pixels // 64) * self.num_classes**2
        return unused, conv + 4 * pixels * self.num_classes

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        trunk = self.backbone
        spatial = self.stage(self.spatial_path, images)
        stage1 = self.stage(trunk.layer1, trunk.stem(images))
        stage2 = self.stage(trunk.layer2, stage1)
        stage3 = self.stage(trunk.layer3, stage2)
        stage4 = self.stage(trunk.layer4, stage3)
        context16 = self.attention_refinement_module1(stage3)
        context32 = self.attention_refinement_module2(stage4) * stage4.mean((2, 3), keepdim=True)
        fused = self.stage(
            self.feature_fusion_module, spatial, resize_as(context16, spatial), resize_as(context32, spatial)
        )
        aux = []
        if self.training:
            heads = (self.supervision1, context16), (self.supervision2, context32)
            aux = [Aux(resize_as(head(context), spatial), self.aux_weight) for head, context in heads]
        features = {
            "spatial": spatial,
            "stage1": stage1,
            "stage2": stage2,
            "stage3": stage3,
            "stage4": stage4,
            "decoder": fused,
            "pre_classifier": fused,
        }
        return Prediction(self.conv(fused), features, aux, {})


def bisenet_r18(
    num_classes: int, pretrained: bool | str, *, aux_weight: float = 1.0, checkpointing: bool = False
) -> SegmentationModel:
    return BiSeNet(num_classes, build_resnet(18, pretrained), aux_weight=aux_weight, checkpointing=checkpointing)
