"""An evaluation kept as an MLflow run. Scores are never lost to it: a server that is down costs a line on stderr."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgseg.evaluation.result import Evaluation

_SCORES = ("miou", "macc", "pixel_accuracy", "images", "corrupt")
DEFAULT_STORE = "sqlite:///mlflow.db"


def metrics(found: Evaluation) -> dict[str, float]:
    """Fractions; "acdc/fog" is acdc.fog, because MLflow's file store makes a folder of every slash."""
    values = dict(found.averages())
    for domain, result in found.as_dict()["domains"].items():
        name = domain.replace("/", ".")
        values |= {
            f"{name}/{score}": result[score] for score in ("miou", "macc", "pixel_accuracy", "images", "corrupt")
        }
        values |= {f"{name}/iou/{of}": value for of, value in result["iou"].items()}
        values |= {f"{name}/ece": result["calibration"]["ece"]} if "calibration" in result else {}
        values |= {f"{name}/boundary_iou": result["boundary_iou"]["mean"]} if "boundary_iou" in result else {}
        for kind, scores in result.get("ood", {}).items():
            values |= {f"{name}/ood/{kind}/{metric}": scores[metric] for metric in ("auroc", "ap", "fpr95")}
            for metric, value in scores.get("components", {}).items():
                values[f"{name}/ood/{kind}/component_{metric}"] = value
    return {name: float(value) for name, value in values.items() if value is not None}


def keep(found: Evaluation, facts: Mapping[str, Any], experiment: str, report: Path | None) -> str:
    """What became of it, in a sentence."""
    # A server that is down is tried for seconds, not for minutes.
    for name, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")):
        os.environ.setdefault(name, value)
    store = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE)
    try:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient
        from mlflow.utils.time import get_current_time_millis

        client = MlflowClient(tracking_uri=store)
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)  # after MLflow has set its own
        at = client.get_experiment_by_name(experiment)
        where = at.experiment_id if at else client.create_experiment(experiment)
        run = client.create_run(where, run_name=f"{Path(facts['weights']).stem} {found.protocol.name}").info.run_id
        now = get_current_time_millis()
        points = [Metric(name, value, now, 0) for name, value in metrics(found).items()]
        params = [Param(name, str(value)) for name, value in {**facts, "protocol": found.protocol.name}.items()]
        for first in range(0, len(points), 1000):  # as many as one call takes
            client.log_batch(run, metrics=points[first : first + 1000], params=params if first == 0 else [])
        client.log_text(run, found.describe() + "\n", "protocol.txt")
        client.log_dict(run, {**facts, **found.as_dict()}, "evaluation.json")
        if report is not None:
            client.log_artifact(run, str(report))
        client.set_terminated(run)
    except Exception as error:  # a store fails in many ways, and none of them concerns the scores
        return f"no MLflow run: {store} does not take it ({type(error).__name__}: {str(error).strip()[:120]} …)"
    return f"MLflow run {run} of {experiment} in {store}"
