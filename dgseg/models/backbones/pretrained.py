"""ImageNet weights for a backbone: from a hub, from the hub's cache, or from a file."""

from pathlib import Path

import torch
from torch import nn

from dgseg.models.weights import load_weights


def pretrained_backbone(backbone: nn.Module, pretrained: bool | str, source: str) -> None:
    """pretrained: False leaves the backbone as it is, True fetches `source`, a string is a local file.

    source: "https://…/resnet50-0676ba61.pth", kept in torch's hub cache, or "hf:<owner>/<repository>/<file>", kept in
    Hugging Face's.
    """
    if pretrained is False:
        return
    load_weights(backbone, _fetch(source) if pretrained is True else pretrained)


def _fetch(source: str) -> Path:
    return _from_hugging_face(source) if source.startswith("hf:") else _from_url(source)


def _from_url(source: str) -> Path:
    place = Path(torch.hub.get_dir()) / "checkpoints" / source.rsplit("/", 1)[1]
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(source, str(place), progress=False)
        except OSError as error:  # URLError is one
            raise _unreachable(source, f"put the file at {place}", error) from error
    return place


def _from_hugging_face(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    owner, repository, file = source.removeprefix("hf:").split("/", 2)
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except Exception as error:  # every transport has its own errors
        fetch = f"`hf download {owner}/{repository} {file}` where there is a network, and copy the hub's cache"
        raise _unreachable(f"https://huggingface.co/{owner}/{repository}", fetch, error) from error


def _unreachable(source: str, remedy: str, error: Exception) -> ValueError:
    return ValueError(
        f"the pretrained weights at {source} cannot be reached ({type(error).__name__}): {remedy}, or give the file "
        'itself: pretrained="/path/to/file"'
    )
