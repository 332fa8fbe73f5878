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
    load_weights(backbone, fetch(source) if pretrained is True else pretrained)


def fetch(source: str) -> Path:
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
    from huggingface_hub import constants, get_session, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    owner, name, file = source.removeprefix("hf:").split("/", 2)
    repository = f"{owner}/{name}"
    try:
        return Path(hf_hub_download(repository, file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass  # fetched below
    try:
        # Asked once beforehand: the download itself would try again and again for half a minute.
        get_session().head(hf_hub_url(repository, file), timeout=10)
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # every transport has its own errors
        remedy = f"run `hf download {repository} {file}` elsewhere and copy its cache to {constants.HF_HUB_CACHE}"
        raise _unreachable(f"https://huggingface.co/{repository}", remedy, error) from error


def _unreachable(source: str, remedy: str, error: Exception) -> ValueError:
    return ValueError(
        f"the pretrained weights at {source} cannot be reached ({type(error).__name__}); without a network, {remedy}, "
        'or give the file itself: pretrained="/path/to/file"'
    )
