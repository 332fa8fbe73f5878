"""torchvision's classifiers, whose trunks are our backbones. A segmentation model takes them under `backbone.`."""

import re
from collections.abc import Callable

from torch import nn

from dgseg.models.weights.format import Format, State

_RESNET = {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.downsample.0.weight"}
# Where MobileNetV2's list of blocks is cut into layers: each layer's first block.
_MOBILENET_CUTS = (0, 2, 7, 11, 18)
_SHUFFLENET_LAYERS = {"conv1": "layer0", "stage2": "layer1", "stage3": "layer2", "stage4": "layer3", "conv5": "layer4"}


def _same(key: str) -> str:
    return key


def _mobilenet(key: str) -> str:
    if found := re.fullmatch(r"features\.(\d+)\.(.*)", key):
        block = int(found[1])
        layer = max(i for i, first in enumerate(_MOBILENET_CUTS) if first <= block)
        return f"layer{layer}.{block - _MOBILENET_CUTS[layer]}.{found[2]}"
    return key


def _shufflenet(key: str) -> str:
    layer, dot, rest = key.partition(".")
    return _SHUFFLENET_LAYERS.get(layer, layer) + dot + rest


def _renamed(rename: Callable[[str], str]) -> Callable[[State, nn.Module], State]:
    def translate(state: State, model: nn.Module) -> State:
        prefix = "backbone." if isinstance(getattr(model, "backbone", None), nn.Module) else ""
        return {prefix + rename(key): tensor for key, tensor in state.items()}

    return translate


FORMATS = [
    Format(
        "torchvision ResNet",
        # AdaptSegNet uses the same names and has classifiers of its own: layer5, layer6
        recognises=lambda keys: keys >= _RESNET and not any(key.startswith(("layer5.", "layer6.")) for key in keys),
        translate=_renamed(_same),
        ignores=("fc.",),
    ),
    Format(
        "torchvision MobileNetV2",
        recognises=lambda keys: keys >= {"features.0.0.weight", "features.18.0.weight", "features.17.conv.0.0.weight"},
        translate=_renamed(_mobilenet),
        ignores=("classifier.",),
    ),
    Format(
        "torchvision ShuffleNetV2",
        recognises=lambda keys: keys >= {"conv1.0.weight", "stage2.0.branch1.0.weight", "conv5.0.weight"},
        translate=_renamed(_shufflenet),
        ignores=("fc.",),
    ),
]
