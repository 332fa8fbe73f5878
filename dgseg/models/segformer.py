"""SegFormer b0 to b5: a Mix Transformer with the all-linear head."""

from collections.abc import Callable
from typing import Any

from dgseg.models.backbones.mit import MIT_SIZES, MIT_WEIGHTS, MiTSize, MixTransformer
from dgseg.models.backbones.pretrained import pretrained_backbone
from dgseg.models.base import SegmentationModel
from dgseg.models.encoder_decoder import EncoderDecoder
from dgseg.models.heads import SegFormerHead


class SegFormer(EncoderDecoder):
    def published_surplus(self, height: int, width: int) -> tuple[int, int]:
        """The published head convolves the concatenation of its levels at the first one's size."""
        areas = [-(-height // stride) * -(-width // stride) for stride in (4, 8, 16, 32)]
        assert isinstance(self.decode_head, SegFormerHead)
        return 0, self.decode_head.width**2 * sum(areas[0] - area for area in areas[1:])


def segformer(
    size: str,
    num_classes: int,
    pretrained: bool | str,
    *,
    width: int | None = None,
    drop_path: float = 0.1,
    dropout: float = 0.1,
    checkpointing: bool = False,
    mit: MiTSize | None = None,
) -> SegmentationModel:
    """width: the head's; 256 for b0 and b1, 768 from b2 on, as published. mit: another transformer size than the
    name's, for small experiments."""
    backbone = MixTransformer(mit or MIT_SIZES[size], drop_path=drop_path)
    pretrained_backbone(backbone, pretrained, MIT_WEIGHTS.format(size))
    head = SegFormerHead(
        backbone.channels, width or (256 if size in ("b0", "b1") else 768), num_classes, dropout=dropout
    )
    return SegFormer(num_classes, backbone, head, checkpointing=checkpointing)


def _named(size: str) -> Callable[..., SegmentationModel]:
    def build(num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
        return segformer(size, num_classes, pretrained, **options)

    return build


b0, b1, b2, b3, b4, b5 = map(_named, ("b0", "b1", "b2", "b3", "b4", "b5"))
