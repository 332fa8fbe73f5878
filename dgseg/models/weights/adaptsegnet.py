"""AdaptSegNet's DeepLabV2: torchvision's trunk names, classifiers `layer5` (on the third stage) and `layer6`.

Its initial weights, converted from Caffe, have the same names after `Scale.`; single-level ones have `layer5` alone, on
the last stage.
"""

from torch import nn

from dgseg.models.weights.format import Format, State


def _recognises(keys: set[str]) -> bool:
    return any(key.endswith("layer5.conv2d_list.0.weight") for key in keys)


def _translate(state: State, model: nn.Module) -> State:
    state = {key.removeprefix("Scale."): tensor for key, tensor in state.items()}
    two = any(key.startswith("layer6.") for key in state)
    heads = {"layer5.": "aux_classifier." if two else "classifier.", "layer6.": "classifier."}
    return {_own(key, heads): tensor for key, tensor in state.items()}


def _own(key: str, heads: dict[str, str]) -> str:
    head = next((h for h in heads if key.startswith(h)), None)
    return heads[head] + key.removeprefix(head) if head else f"backbone.{key}"


FORMATS = [Format("AdaptSegNet DeepLabV2", _recognises, _translate)]
