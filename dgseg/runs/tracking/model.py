"""The final weights as MLflow's logged model: safetensors and a name, no pickle; segmenter.py brings it back."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

import dgseg

LOADER = "dgseg.runs.tracking.segmenter"  # by name: it brings torch, which the shipper has no use for
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


def log(client: MlflowClient, run: Run, weights: Path, description: Mapping[str, Any], step: int, aside: Path) -> None:
    """The run's model; one, however often this is called. aside: a folder with room for it."""
    run_id, experiment = run.info.run_id, run.info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'", max_results=1)
    if found and str(found[0].status) == "READY":
        return
    logged = (
        found[0]
        if found
        else client.create_logged_model(
            experiment, description["name"], run_id, tags={"step": str(step)}, model_type="segmentation"
        )
    )
    if run.outputs is None or not run.outputs.model_outputs:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    record = Model(
        artifact_path=logged.artifact_location,
        run_id=run_id,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
    )
    with tempfile.TemporaryDirectory(dir=aside) as place:
        save(Path(place) / "model", weights, description, record)
        client.log_model_artifacts(logged.model_id, str(Path(place) / "model"))
    client.finalize_logged_model(logged.model_id, "READY")
