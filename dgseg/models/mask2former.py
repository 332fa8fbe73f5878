"""Mask2Former with a ResNet-50, its network from transformers: queries that each predict a class and a mask, turned
into one score per class and pixel. Its own loss, which matches queries with an image's classes, is mask_loss.py.

The logits are log Σ_q p_q(c)·sigmoid(mask_q), the logarithm of the published semantic scores at the masks' resolution
(the published code upsamples masks before it adds them up, here the logits are upsampled): their argmax is the
published one there, and their softmax, hence a cross-entropy on them, normalises the scores over the classes.

features["pre_classifier"] is Σ_q sigmoid(mask_q)·query_q, linear in the class predictor; `extra` holds the queries
themselves, on which the uncertainty head works: it scores regions, not pixels (uncertainty.py)."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dgseg.models.backbones import pretrained_backbone
from dgseg.models.base import SegmentationModel, UnknownOption
from dgseg.models.prediction import Aux, Prediction
from dgseg.models.uncertainty import RegionHead

LEAST_SCORE = 1e-6  # of a class that no query asks for: keeps the logarithm and its gradient finite
RESNET50 = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
STAGES = ("stage1", "stage2", "stage3", "stage4")


def network_config(num_classes: int, backbone: dict[str, Any], options: dict[str, Any]) -> Any:
    from transformers import Mask2FormerConfig, ResNetConfig

    class Config(Mask2FormerConfig):  # type: ignore[misc]
        backbones_supported = ("resnet",)  # its own list names Swin alone, and it warns of everything else

    # They take any word, and a misspelt one would change nothing.
    for known, given in ((Config(), options), (ResNetConfig(), backbone)):
        if unknown := [name for name in given if not hasattr(known, name)]:
            raise UnknownOption(f"mask2former_r50 has no option {unknown[0]!r}")
    return Config(
        backbone_config=ResNetConfig(out_features=list(STAGES), **backbone), num_labels=num_classes, **options
    )


class Mask2Former(SegmentationModel):
    multiple = 32

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: dict[str, Any] | None = None,
        deep_supervision: bool = True,
        uncertainty: bool = False,
        checkpointing: bool = False,
        **options: Any,
    ) -> None:
        """backbone: fields of transformers' ResNetConfig (default: ResNet-50); options: of its Mask2FormerConfig.
        deep_supervision: every decoder layer's logits in `Prediction.aux`. `mask_loss` does not need them: it finds
        all layers' queries in `extra["layers"]`. uncertainty: a learnable score of regions beside the classes."""
        super().__init__(num_classes)
        from transformers import Mask2FormerForUniversalSegmentation

        self.checkpoint_stages(checkpointing)
        self.deep_supervision = deep_supervision
        self.network = Mask2FormerForUniversalSegmentation(network_config(num_classes, backbone or {}, options))
        # The constructor that made this one does not know the meta device.
        pixel_decoder = self.network.model.pixel_level_module.decoder
        pixel_decoder.level_embed = nn.Parameter(torch.empty(pixel_decoder.level_embed.shape))
        nn.init.normal_(pixel_decoder.level_embed)
        self.uncertainty = RegionHead(self.network.class_predictor) if uncertainty else None
        self.train()

    def train(self, mode: bool = True) -> "Mask2Former":
        super().train(mode)
        if self.network.config.dropout == 0:
            # All that training mode adds to these layers is a look whether every value is finite: a GPU has to wait
            # for it, and a compiled graph breaks at it.
            for layer in self.network.model.pixel_level_module.decoder.encoder.layers:
                layer.training = False
        return self

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        network = self.network.model
        backbone = network.pixel_level_module.encoder
        x = backbone.embedder(images)
        stages = []
        for stage in backbone.encoder.stages:
            x = self.stage(stage, x)
            stages.append(x)
        decoded = network.pixel_level_module.decoder(stages)
        layers = network.transformer_module(decoded.multi_scale_features, decoded.mask_features)
        queries_NQD = layers.intermediate_hidden_states[-1].transpose(0, 1)
        class_logits = self.network.class_predictor(queries_NQD)
        mask_logits = layers.masks_queries_logits[-1]
        features = dict(zip(STAGES, stages, strict=True)) | {
            "decoder": decoded.mask_features,
            "pre_classifier": torch.einsum("nqd,nqhw->ndhw", queries_NQD, mask_logits.sigmoid().to(queries_NQD.dtype)),
        }
        extra: dict[str, Any] = {"queries": queries_NQD, "class_logits": class_logits, "mask_logits": mask_logits}
        if self.uncertainty is not None:
            extra["uncertainty"] = self.uncertainty(queries_NQD, mask_logits)
        aux = []
        if self.training:
            earlier = [
                (self.network.class_predictor(hidden.transpose(0, 1)), masks)
                for hidden, masks in zip(
                    layers.intermediate_hidden_states[:-1], layers.masks_queries_logits[:-1], strict=True
                )
            ]
            extra["layers"] = [*earlier, (class_logits, mask_logits)]
            if self.deep_supervision:
                aux = [Aux(semantic_logits(classes, masks), 1.0) for classes, masks in earlier]
        return Prediction(semantic_logits(class_logits, mask_logits), features, aux, extra)

    def derived(self) -> dict[str, str]:
        parts = ("weight", "bias") if self.uncertainty is not None else ()
        return {f"uncertainty.{part}": f"network.class_predictor.{part}" for part in parts}


def semantic_logits(class_logits_NQK: Tensor, mask_logits_NQhw: Tensor) -> Tensor:
    """[N, C, h, w]; the last of the K = C + 1 classes is "no object" and takes no part."""
    device = class_logits_NQK.device.type
    with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
        classes = class_logits_NQK.float().softmax(-1)[..., :-1]
        scores = torch.einsum("nqc,nqhw->nchw", classes, mask_logits_NQhw.float().sigmoid())
        return (scores + LEAST_SCORE).log()


def _transformers_name(torchvision: str) -> str:
    """A key of torchvision's ResNet as transformers' ResNetBackbone has it."""
    part, *rest = torchvision.split(".")
    kind = "convolution" if part == "conv1" else "normalization"
    if part in ("conv1", "bn1"):
        return ".".join(["embedder.embedder", kind, *rest])
    block, inner, *rest = rest
    path = f"encoder.stages.{int(part.removeprefix('layer')) - 1}.layers.{block}"
    if inner == "downsample":
        kind = "convolution" if rest.pop(0) == "0" else "normalization"
        return ".".join([path, "shortcut", kind, *rest])
    kind = "convolution" if inner.startswith("conv") else "normalization"
    return ".".join([path, "layer", str(int(inner[-1]) - 1), kind, *rest])


def mask2former_r50(num_classes: int, pretrained: bool | str, **options: Any) -> SegmentationModel:
    """pretrained: the ResNet's weights, torchvision's or a file with its keys."""
    model = Mask2Former(num_classes, **options)
    if pretrained is not False:
        from torchvision.models import resnet50

        with torch.device("meta"):
            resnet = resnet50()
        resnet.fc = nn.Identity()
        pretrained_backbone(resnet, pretrained, RESNET50)
        state = {_transformers_name(key): value for key, value in resnet.state_dict().items()}
        model.network.model.pixel_level_module.encoder.load_state_dict(state)
    return model
