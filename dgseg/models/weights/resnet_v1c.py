"""ResNets with the three-convolution stem, and the papers' ResNet baselines on them, which need no translation."""

from torch import nn

from dgseg.models.weights.format import Format, State
from dgseg.models.weights.mit import into_backbone


def _from_timm(state: State, model: nn.Module) -> State:
    def rename(key: str) -> str:
        if key.startswith("conv1."):
            return "stem." + key.removeprefix("conv1.")
        return "stem.7." + key.removeprefix("bn1.") if key.startswith("bn1.") else key

    return into_backbone({rename(key): tensor for key, tensor in state.items()}, model)


FORMATS = [
    Format(
        "ResNet-C (timm)",
        recognises=lambda keys: keys >= {"conv1.0.weight", "conv1.6.weight", "bn1.weight", "layer4.0.conv1.weight"},
        translate=_from_timm,
        ignores=("fc.",),
    ),
    Format(
        "ResNet V1c (mmsegmentation)",
        recognises=lambda keys: keys >= {"stem.0.weight", "stem.6.weight", "layer4.0.conv1.weight"},
        translate=into_backbone,
        ignores=("fc.",),
    ),
    Format(
        "DeepLabV2 on ResNet V1c (mmsegmentation)",
        recognises=lambda keys: keys >= {"backbone.stem.0.weight", "decode_head.aspp_modules.0.conv.weight"},
    ),
    Format(
        "HRDA on ResNet V1c",
        recognises=lambda keys: keys >= {"backbone.stem.0.weight", "decode_head.head.aspp_modules.0.conv.weight"},
    ),
]
