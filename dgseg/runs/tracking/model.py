"""The final weights as MLflow's logged model: safetensors and a name, no pickle; segmenter.py brings it back."""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

import dgseg

LOADER = "dgseg.runs.tracking.segmenter"  # by name: it brings torch, which the sender has no use for
WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"


def save(folder: Path, weights: Path, description: Mapping[str, Any], record: Model) -> None:
    """description: `name`, `num_classes` and `options` as dgseg.models.build takes them, `window` and `stride` as
    dgseg.models.predict_logits does."""
    data = folder.with_name(folder.name + "-data")
    data.mkdir(parents=True)
    shutil.copyfile(weights, data / WEIGHTS)
    (data / DESCRIPTION).write_text(json.dumps(dict(description), indent=1) + "\n", encoding="utf-8")
    byte = np.dtype(np.uint8)
    mlflow.pyfunc.save_model(
        str(folder),
        loader_module=LOADER,
        data_path=str(data),
        mlflow_model=record,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(byte, (-1, -1, -1, -1))]), outputs=Schema([TensorSpec(byte, (-1, -1, -1))])
        ),
        # Given, not found out: MLflow would load the model in a process of its own to see what it imports.
        pip_requirements=[f"dgseg[models]=={dgseg.__version__}", f"torch=={version('torch').partition('+')[0]}"],
    )
    shutil.rmtree(data)
