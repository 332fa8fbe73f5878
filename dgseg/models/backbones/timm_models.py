"""timm's models with timm's own reading of their weights, which resamples patches and positions."""

from pathlib import Path
from typing import Any


def timm_model(name: str, pretrained: bool | str, **options: Any) -> Any:
    """pretrained: False, True (the published weights, by timm's hub name) or a local file of the same keys."""
    import timm

    if pretrained is False:
        return timm.create_model(name, **options)
    if isinstance(pretrained, str):
        if not Path(pretrained).is_file():
            raise ValueError(f"there is no weights file at {pretrained}")
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": pretrained}, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # every transport has its own errors
        hub = timm.models.get_pretrained_cfg(name).hf_hub_id
        raise ValueError(
            f"the weights of {name} cannot be reached ({type(error).__name__}): `hf download {hub}` where there is a "
            'network, and copy the hub\'s cache, or give the file itself: pretrained="/path/to/model.safetensors"'
        ) from error
