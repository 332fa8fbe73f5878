"""What one would use instead of our models: the nearest of transformers, segmentation-models-pytorch and timm, with
random weights, at the same number of classes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Peer:
    name: str
    build: Callable[[int], nn.Module]  # from the number of classes; it returns low-resolution logits


class _Logits(nn.Module):
    """A transformers model whose output has `logits`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).logits
        return logits


def _segformer(size: str, num_classes: int) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    depths = {
        "b0": [2, 2, 2, 2],
        "b1": [2, 2, 2, 2],
        "b2": [3, 4, 6, 3],
        "b3": [3, 4, 18, 3],
        "b4": [3, 8, 27, 3],
        "b5": [3, 6, 40, 3],
    }
    config = SegformerConfig(
        depths=depths[size],
        hidden_sizes=[32, 64, 160, 256] if size == "b0" else [64, 128, 320, 512],
        decoder_hidden_size=256 if size in ("b0", "b1") else 768,
        num_labels=num_classes,
    )
    return _Logits(SegformerForSemanticSegmentation(config))


def _smp_segformer(size: str, num_classes: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    with torch.device("cpu"):  # its constructor does not know the meta device
        model: nn.Module = smp.Segformer(
            f"mit_{size}",
            encoder_weights=None,
            decoder_segmentation_channels=256 if size in ("b0", "b1") else 768,
            classes=num_classes,
            upsampling=1,
        )
    return model


def _deeplabv3plus(encoder: str, num_classes: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    model: nn.Module = smp.DeepLabV3Plus(
        encoder,
        encoder_weights=None,
        decoder_atrous_rates=(6, 12, 18),
        decoder_aspp_separable=False,
        classes=num_classes,
        upsampling=1,
    )
    return model


class _Mask2Former(nn.Module):
    """With the semantic scores that its image processor makes of the queries, at the masks' resolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from transformers import Mask2FormerForUniversalSegmentation

        from dgseg.models.mask2former import network_config

        self.network = Mask2FormerForUniversalSegmentation(network_config(num_classes, {}, {}))

    def forward(self, images: Tensor) -> Tensor:
        found = self.network(images)
        classes = found.class_queries_logits.softmax(-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", classes, found.masks_queries_logits.sigmoid())


class _TimmViT(nn.Module):
    """timm's transformer with one linear layer over its last map."""

    def __init__(self, backbone: str, num_classes: int) -> None:
        super().__init__()
        import timm

        self.backbone = timm.create_model(backbone, num_classes=0, dynamic_img_size=True, dynamic_img_pad=True)
        self.head = nn.Conv2d(self.backbone.num_features, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        logits: Tensor = self.head(maps[0])
        return logits


class _Trunk(nn.Module):
    """timm's ResNet with a 1x1 classifier: the least that a network on this trunk must do."""

    def __init__(self, backbone: str, output_stride: int, num_classes: int) -> None:
        super().__init__()
        import timm

        self.trunk = timm.create_model(backbone, features_only=True, output_stride=output_stride, out_indices=(4,))
        self.head = nn.Conv2d(self.trunk.feature_info.channels()[-1], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(images)[0])
        return logits


def peers(name: str) -> list[Peer]:
    """Empty where no library has such a model."""
    family, _, rest = name.partition("_")
    if family == "segformer":
        return [
            Peer("transformers SegFormer", partial(_segformer, rest)),
            Peer("smp SegFormer", partial(_smp_segformer, rest)),
        ]
    if rest.startswith("mitb"):
        return [Peer("transformers SegFormer", partial(_segformer, rest.removeprefix("mit")))]
    if family == "deeplabv3plus" and rest in ("r50", "mobilenetv2"):
        encoder = {"r50": "resnet50", "mobilenetv2": "mobilenet_v2"}[rest]
        return [Peer("smp DeepLabV3+", partial(_deeplabv3plus, encoder))]
    if family == "mask2former":
        return [Peer("transformers Mask2Former", _Mask2Former)]
    if family == "vit":
        size, generation = rest.split("_")
        patch = {"dinov2": 14, "dinov3": 16}[generation]
        return [Peer("timm ViT", partial(_TimmViT, f"vit_{size}_patch{patch}_{generation}"))]
    if rest == "r101":
        return [Peer("timm ResNet-101 trunk", partial(_Trunk, "resnet101", 8))]
    return []


def logits_of(output: Any) -> Tensor:
    """Of one of ours or of a peer."""
    logits: Tensor = getattr(output, "logits", output)
    return logits
