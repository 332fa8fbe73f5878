"""timm's models with timm's own reading of their weights, which resamples patches and positions."""

from pathlib import Path
from typing import Any

from dgseg.models.backbones.pretrained import fetch
from dgseg.models.weights.loading import looks_like
from dgseg.models.weights.reading import WeightsError, bare, read


def timm_model(name: str, pretrained: bool | str, **options: Any) -> Any:
    """pretrained: False, True (the published weights, by timm's hub name) or a local file of the same keys."""
    import timm

    if pretrained is False:
        return timm.create_model(name, **options)
    hub = timm.models.get_pretrained_cfg(name).hf_hub_id
    path = fetch(f"hf:{hub}/model.safetensors") if pretrained is True else Path(pretrained)
    # Read here: not every timm reads files without executing what is in them.
    state, metadata = read(path)
    state, _ = bare(state)
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, **options)
    except (RuntimeError, KeyError) as error:  # of load_state_dict, and of timm's translation before it
        looks = looks_like(state, metadata) or "none that is known"
        raise WeightsError(f"{path} holds no weights of {name}: it looks like {looks}") from error
    del model.pretrained_cfg["state_dict"]
    return model
