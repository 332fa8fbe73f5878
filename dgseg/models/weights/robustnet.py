"""RobustNet's and BlindNet's DeepLabV3+: our head's names, and trunks cut into layer0 … layer4."""

import re
from collections.abc import Callable

from torch import nn

from dgseg.models.weights.format import Format, State

_HEAD = {"aspp.img_conv.0.weight", "bot_fine.0.weight", "bot_aspp.0.weight", "final2.0.weight"}
_RESNET_STEM = {"layer0.0.": "conv1.", "layer0.1.": "bn1."}


def _resnet(state: State, model: nn.Module) -> State:
    return {_into_trunk(_stem(key)): tensor for key, tensor in state.items()}


def _stem(key: str) -> str:
    beginning = key[: len("layer0.0.")]
    return _RESNET_STEM.get(beginning, beginning) + key[len(beginning) :]


def _mobilenet(state: State, model: nn.Module) -> State:
    return {_into_trunk(key): tensor for key, tensor in state.items()}


def _shufflenet(state: State, model: nn.Module) -> State:
    """With an instance norm in the stem the published model still carries the batch norm that it replaces."""
    names = {
        key: _into_trunk(re.sub(r"^layer0\.layer\.0\.|^layer4\.layer\.", lambda m: m[0][:7], key)) for key in state
    }
    own = model.state_dict()
    unused = () if "backbone.layer0.1.running_mean" in own else ("layer0.layer.0.1.",)
    return {names[key]: tensor for key, tensor in state.items() if not key.startswith(unused or "\0")}


def _into_trunk(key: str) -> str:
    return f"backbone.{key}" if re.match(r"layer[0-4]\.|conv1\.|bn1\.", key) else key


def _format(trunk: str, mark: str, translate: Callable[[State, nn.Module], State]) -> Format:
    return Format(
        f"DeepLabV3+ {trunk} (RobustNet, BlindNet)",
        lambda keys: keys >= _HEAD and mark in keys,
        translate,
        ignores=("ProjectionHead_cls_",),  # of BlindNet's losses
    )


FORMATS = [
    _format("ResNet-50", "layer1.0.conv1.weight", _resnet),
    _format("ShuffleNetV2", "layer1.0.branch1.0.weight", _shufflenet),
    _format("MobileNetV2", "layer1.0.conv.0.0.weight", _mobilenet),
]
