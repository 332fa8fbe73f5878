"""A model that MLflow brings back, wherever dgseg is installed.

model = mlflow.pyfunc.load_model("models:/m-…")
labels = model.predict(images)  # uint8 [N, H, W, 3] or [N, 3, H, W] -> train ids, uint8 [N, H, W]
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dgseg.models import build, load_weights
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_logits

Bytes = npt.NDArray[np.uint8]


class Segmenter:
    def __init__(self, model: SegmentationModel, window: int | None, stride: int | None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.eval().to(self.device)
        self.window = window
        self.stride = stride

    def predict(self, images: Bytes, params: Mapping[str, Any] | None = None) -> Bytes:
        """Train ids at the images' own size. One image at a time: memory does not grow with their number."""
        if images.ndim != 4 or 3 not in (images.shape[1], images.shape[3]):
            raise ValueError(f"images are uint8 [N, H, W, 3] or [N, 3, H, W]; these are {list(images.shape)}")
        if images.shape[1] != 3:
            images = images.transpose(0, 3, 1, 2)
        labels = np.empty((len(images), *images.shape[2:]), np.uint8)
        for image, label in zip(images, labels, strict=True):
            batch = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0).to(self.device)
            logits = predict_logits(self.model, batch, window=self.window, stride=self.stride)
            label[:] = logits[0].argmax(0).byte().cpu().numpy()
        return labels


def _load_pyfunc(path: str) -> Segmenter:
    """MLflow calls it by this name."""
    description = json.loads((Path(path) / "model.json").read_text(encoding="utf-8"))
    model = build(description["name"], description["num_classes"], **description["options"])
    load_weights(model, Path(path) / "weights.safetensors")
    return Segmenter(model, description["window"], description["stride"])
