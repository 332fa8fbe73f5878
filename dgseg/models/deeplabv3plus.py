"""DeepLabV3+ as RobustNet and BlindNet have it, on ResNet-50, ShuffleNetV2 or MobileNetV2.

Interpolation inside aligns corners, as theirs does. Names of the head's parts are theirs too, so that their checkpoints
need no more than the trunk renamed.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from dgseg.models.base import SegmentationModel
from dgseg.models.blocks import ConvNormReLU, pool, resize_as
from dgseg.models.prediction import Aux, Prediction
from dgseg.models.uncertainty import EnergyHead

InstanceNorms = Literal["whitening", "ibn"]


class PyramidPooling(nn.Module):
    """Image pooling first, then 1x1 and three dilated 3x3, side by side: 1280 channels, not yet mixed."""

    def __init__(self, inputs: int, rates: tuple[int, ...], outputs: int = 256) -> None:
        super().__init__()
        dilated = [ConvNormReLU(inputs, outputs, dilation=rate) for rate in rates]
        self.features = nn.ModuleList([ConvNormReLU(inputs, outputs, 1), *dilated])
        self.img_conv = ConvNormReLU(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Interpolating one pixel is repeating it.
        image = self.img_conv(pool(x, self.img_conv[1])).expand(-1, -1, *x.shape[-2:])
        return torch.cat([image, *(branch(x) for branch in self.features)], 1)


class DeepLabV3Plus(SegmentationModel):
    """instance_norms: None; "whitening", affine-free, for RobustNet's and BlindNet's losses; "ibn", affine. Their maps
    are the features norm0, norm1, … by position: 0 the stem, 1 to 4 the ends of the trunk's layers. align_corners: of
    the logits' upsampling in inference; the published checkpoints were trained and measured with it. uncertainty: a
    learnable energy score beside the classifier."""

    multiple = 16

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        *,
        instance_norms: InstanceNorms | None = None,
        positions: tuple[int, ...] = (0, 1, 2),
        output_stride: int = 16,
        aux_weight: float = 0.4,
        aux_dropout: float = 0.1,
        align_corners: bool = False,
        uncertainty: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(num_classes)
        trunk: Any = backbone
        _check(instance_norms, positions, output_stride, trunk.norm_positions)
        self.align_corners = align_corners
        self.checkpoint_stages(checkpointing)
        self.aux_weight, self.positions = aux_weight, positions if instance_norms else ()
        trunk.dilate(output_stride)
        trunk.place_norms(self.positions, instance_norms == "ibn")
        _, low, _, before_last, last = trunk.channels
        rates = tuple(rate * 16 // output_stride for rate in (6, 12, 18))
        self.aspp = PyramidPooling(last, rates)
        self.bot_fine = ConvNormReLU(low, 48, 1)
        self.bot_aspp = ConvNormReLU(1280, 256, 1)
        self.final1 = nn.Sequential(*ConvNormReLU(304, 256), *ConvNormReLU(256, 256))
        self.final2 = nn.Sequential(nn.Conv2d(256, num_classes, 1))
        self.dsn = nn.Sequential(
            # With a bias, its norm notwithstanding: it is in the checkpoints.
            nn.Conv2d(before_last, 512, 3, padding=1),
            nn.BatchNorm2d(512),
            nn.ReLU(inplace=True),
            nn.Dropout2d(aux_dropout),
            nn.Conv2d(512, num_classes, 1),
        )
        self.apply(_init)
        self.uncertainty = EnergyHead(self.final2[0]) if uncertainty else None  # type: ignore[arg-type]
        self.backbone = backbone  # last: its own initialisation, or its weights, stay

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        trunk: Any = self.backbone
        features: dict[str, Tensor] = {}

        def split(position: int, output: Any) -> Tensor:
            if position in self.positions:
                output, features[f"norm{position}"] = output
            if position:
                features[f"stage{position}"] = output
            return output  # type: ignore[no-any-return]

        x = split(0, trunk.layer0(images))
        for position, layer in enumerate((trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4), start=1):
            x = split(position, self.stage(layer, x))
        pooled = self.bot_aspp(self.stage(self.aspp, x))
        fine = self.bot_fine(features["stage1"])
        concat = torch.cat([fine, resize_as(pooled, fine, align_corners=True)], 1)
        final = self.stage(self.final1, concat)
        features |= {"concat": concat, "decoder": final, "pre_classifier": final}
        aux = [Aux(self.dsn(features["stage3"]), self.aux_weight)] if self.training else []
        extra = {} if self.uncertainty is None else {"uncertainty": self.uncertainty(final)}
        return Prediction(self.final2(final), features, aux, extra)

    def derived(self) -> dict[str, str]:
        return {} if self.uncertainty is None else {"uncertainty.weight": "final2.0.weight"}


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(norms: str | None, positions: tuple[int, ...], output_stride: int, possible: tuple[int, ...]) -> None:
    if norms not in (None, "whitening", "ibn"):
        raise ValueError(f'instance_norms is {norms!r}: None, "whitening" (BlindNet, RobustNet) or "ibn"')
    if norms and (not positions or not set(positions) <= set(possible)):
        raise ValueError(f"instance norms at {positions}: this trunk takes some of {possible}")
    if output_stride not in (8, 16):
        raise ValueError(f"output_stride is {output_stride}: 8 or 16")


def deeplabv3plus_r50(
    num_classes: int, pretrained: bool | str, *, layers: tuple[int, ...] | None = None, **options: Any
) -> SegmentationModel:
    from dgseg.models.backbones.resnet import build_resnet

    return DeepLabV3Plus(num_classes, build_resnet(50, pretrained, layers), **options)


def deeplabv3plus_shufflenetv2(num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
    from dgseg.models.backbones.light import build_light

    return DeepLabV3Plus(num_classes, build_light("shufflenetv2", pretrained), **options)


def deeplabv3plus_mobilenetv2(num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
    from dgseg.models.backbones.light import build_light

    return DeepLabV3Plus(num_classes, build_light("mobilenetv2", pretrained), **options)
