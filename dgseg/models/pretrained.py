"""Published backbone weights: from timm's hub, or from a local file where a machine has no network."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file; nothing in it is executed."""
    if not Path(path).is_file():
        raise ValueError(f"there is no weights file {path}")
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    return dict(state)


def timm_model(name: str, pretrained: bool | str, **options: Any) -> Any:
    """timm's model; pretrained: True asks its hub, a path is read instead."""
    import timm

    local = isinstance(pretrained, (str, Path))
    if local and not Path(pretrained).is_file():
        raise ValueError(f"there is no weights file {pretrained}")
    overlay = {"pretrained_cfg_overlay": {"file": str(pretrained)}} if local else {}
    try:
        return timm.create_model(name, pretrained=bool(pretrained), **overlay, **options)
    except (OSError, RuntimeError) as error:
        if local or not pretrained:
            raise
        hub = timm.get_pretrained_cfg(name).hf_hub_id
        raise ValueError(
            f"the weights of {name} cannot be fetched here ({type(error).__name__}). On a machine with network: "
            f"`hf download {hub} model.safetensors`; then pass pretrained='<path of that file>'"
        ) from error


def resnet_state(name: str, pretrained: bool | str) -> dict[str, Tensor]:
    """A ResNet's tensors under torchvision's keys, which timm's are too, without the classifier."""
    state = timm_model(name, True).state_dict() if pretrained is True else read_state(str(pretrained))
    return {key: value for key, value in state.items() if not key.startswith("fc.")}
