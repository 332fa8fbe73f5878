"""torchvision's classifiers, whose trunks are our backbones."""

from torch import nn

from dgseg.models.weights.format import Format, State

_RESNET = {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.downsample.0.weight"}


def _into_backbone(state: State, model: nn.Module) -> State:
    """For a bare backbone as they are; for a segmentation model under its backbone's name."""
    if isinstance(getattr(model, "backbone", None), nn.Module):
        return {f"backbone.{key}": tensor for key, tensor in state.items()}
    return state


FORMATS = [
    Format(
        "torchvision ResNet",
        # AdaptSegNet uses the same names and has classifiers of its own: layer5, layer6
        recognises=lambda keys: keys >= _RESNET and not any(key.startswith(("layer5.", "layer6.")) for key in keys),
        translate=_into_backbone,
        ignores=("fc.",),
    ),
    Format(
        "torchvision MobileNetV2",
        recognises=lambda keys: keys >= {"features.0.0.weight", "features.18.0.weight", "features.17.conv.0.0.weight"},
        translate=_into_backbone,
        ignores=("classifier.",),
    ),
    Format(
        "torchvision ShuffleNetV2",
        recognises=lambda keys: keys >= {"conv1.0.weight", "stage2.0.branch1.0.weight", "conv5.0.weight"},
        translate=_into_backbone,
        ignores=("fc.",),
    ),
]
