"""A model as a weights file has it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dgseg.models.base import SegmentationModel, UnknownOption
from dgseg.models.build import build
from dgseg.models.lora import is_adapter, load_adapter
from dgseg.models.weights import load_weights
from dgseg.models.weights.loading import looks_like
from dgseg.models.weights.reading import bare, read


def trained(
    weights: Path, name: str | None = None, num_classes: int = 19, options: Mapping[str, Any] | None = None
) -> SegmentationModel:
    """In eval mode. name: where the file does not say its architecture. options win over those that it says."""
    options = dict(options or {})
    if name is None:
        state, metadata = read(weights)
        name = metadata.get("architecture")
        options = {**json.loads(metadata.get("options", "{}")), **options}
        if not name:
            looks = looks_like(bare(state)[0], metadata)
            hint = f"; it looks like {looks}" if looks else ""
            raise ValueError(f"{weights} does not say which model it is of{hint}: name it with --model")
    model = untrained(name, num_classes, options)
    (load_adapter if is_adapter(weights) else load_weights)(model, weights)
    return model


def untrained(name: str, num_classes: int = 19, options: Mapping[str, Any] | None = None) -> SegmentationModel:
    """In eval mode; its random values are the same every time."""
    torch.manual_seed(0)
    try:
        model = build(name, num_classes, **(options or {}))
    except (TypeError, UnknownOption) as error:
        if not options:
            raise
        raise ValueError(f"{name} cannot be built with {dict(options)}: {error}") from error
    return model.eval()
