"""A plain segmentation head over a DINOv2 or DINOv3 vision transformer from timm, which is frozen, adapted by LoRA or
trained whole. All maps are at the patch size's stride."""

from functools import partial
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.models.backbones.timm_models import timm_model
from dgseg.models.base import SegmentationModel
from dgseg.models.lora import TARGETS, add_adapters
from dgseg.models.prediction import Prediction


class VisionTransformer(SegmentationModel):
    def __init__(
        self,
        num_classes: int,
        backbone: str,
        pretrained: bool | str = False,
        *,
        adapt: Literal["frozen", "lora", "full"] = "lora",
        rank: int = 16,
        alpha: float = 32.0,
        targets: tuple[str, ...] = TARGETS,
        decoder: int = 256,
        dropout: float = 0.1,
        checkpointing: bool = False,
        **options: Any,
    ) -> None:
        """options: timm's own (patch_size, img_size, depth, …); published weights are resampled to another patch size
        and, as positions are, to any image size."""
        super().__init__(num_classes)
        if adapt not in ("frozen", "lora", "full"):
            raise ValueError(f"adapt must be 'frozen', 'lora' or 'full'; it is {adapt!r}")
        self.backbone = timm_model(backbone, pretrained, num_classes=0, dynamic_img_size=True, **options)
        for module in self.backbone.modules():  # DINOv3's rotary periods: a model built on meta gets them with the file
            for name in list(module._non_persistent_buffers_set):
                module.register_buffer(name, getattr(module, name))
        self.frozen = adapt == "frozen"
        self.backbone.requires_grad_(adapt == "full")
        if adapt == "lora":
            for block in self.backbone.blocks:
                if getattr(block.attn, "q_bias", None) is not None:
                    block.attn.qkv_bias_separate = True  # else timm takes the layer's weight and passes its forward by
            add_adapters(self.backbone.blocks, rank=rank, alpha=alpha, targets=targets)
        self.multiple = self.minimum = int(self.backbone.patch_embed.patch_size[0])
        depth = len(self.backbone.blocks)
        self.taken = sorted({max(0, round(depth * part / 4) - 1) for part in (1, 2, 3, 4)})
        self.fuse = nn.Sequential(
            nn.Conv2d(self.backbone.num_features * len(self.taken), decoder, 1, bias=False),
            nn.BatchNorm2d(decoder),
            nn.GELU(),
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(decoder, num_classes, 1)
        self.checkpoint_stages(checkpointing)

    def checkpoint_stages(self, on: bool = True) -> Self:
        self.backbone.set_grad_checkpointing(on)
        return super().checkpoint_stages(on)

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        height, width = (-(-side // self.multiple) * self.multiple for side in images.shape[-2:])
        if (height, width) != tuple(images.shape[-2:]):
            # Resized, not padded: the logits have to cover the image and nothing else.
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.backbone.forward_intermediates(images, indices=self.taken, norm=True, intermediates_only=True)
        stages = {f"stage{number}": x for number, x in enumerate(maps, 5 - len(maps))}
        decoder = self.fuse(torch.cat(maps, 1))
        features = stages | {"decoder": decoder, "pre_classifier": decoder}
        return Prediction(self.classifier(self.dropout(decoder)), features, [], {})


def _dinov2(
    size: str, num_classes: int, pretrained: bool | str, *, registers: bool = False, **options: Any
) -> SegmentationModel:
    """registers: the variant with four register tokens, which has weights of its own."""
    name = f"vit_{size}_patch14_reg4_dinov2" if registers else f"vit_{size}_patch14_dinov2"
    return VisionTransformer(num_classes, name, pretrained, **options)


def _dinov3(size: str, num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
    """It always has four register tokens."""
    return VisionTransformer(num_classes, f"vit_{size}_patch16_dinov3", pretrained, **options)


vit_small_dinov2 = partial(_dinov2, "small")
vit_base_dinov2 = partial(_dinov2, "base")
vit_large_dinov2 = partial(_dinov2, "large")
vit_small_dinov3 = partial(_dinov3, "small")
vit_base_dinov3 = partial(_dinov3, "base")
vit_large_dinov3 = partial(_dinov3, "large")
