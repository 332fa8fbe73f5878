"""DAFormer: MiT with context-aware fusion; and the ResNet-101 baseline of the papers, which has DeepLabV2's head."""

from typing import Any

from dgseg.models.backbones.mit import MIT_SIZES, MIT_WEIGHTS, MiTSize, MixTransformer
from dgseg.models.backbones.pretrained import pretrained_backbone
from dgseg.models.base import SegmentationModel
from dgseg.models.encoder_decoder import EncoderDecoder
from dgseg.models.heads import DAFormerHead, DeepLabV2Head


def daformer(
    size: str,
    num_classes: int,
    pretrained: bool | str,
    *,
    width: int = 256,
    drop_path: float = 0.1,
    dropout: float = 0.1,
    checkpointing: bool = False,
    mit: MiTSize | None = None,
) -> SegmentationModel:
    """mit: another transformer size than the name's, for small experiments."""
    backbone = MixTransformer(mit or MIT_SIZES[size], drop_path=drop_path)
    pretrained_backbone(backbone, pretrained, MIT_WEIGHTS.format(size))
    head = DAFormerHead(backbone.channels, num_classes, width=width, dropout=dropout)
    return EncoderDecoder(num_classes, backbone, head, checkpointing=checkpointing)


def mitb5(num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
    return daformer("b5", num_classes, pretrained, **options)


def mitb0(num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
    return daformer("b0", num_classes, pretrained, **options)


def r101(
    num_classes: int,
    pretrained: bool | str,
    *,
    layers: tuple[int, ...] = (3, 4, 23, 3),
    checkpointing: bool = False,
) -> SegmentationModel:
    """layers: another depth than the name's, for small experiments."""
    from dgseg.models.backbones.resnet_v1c import WEIGHTS, ResNetV1c

    backbone = ResNetV1c(layers)
    pretrained_backbone(backbone, pretrained, WEIGHTS)
    head = DeepLabV2Head(backbone.channels[-1], num_classes)
    return EncoderDecoder(num_classes, backbone, head, checkpointing=checkpointing)
