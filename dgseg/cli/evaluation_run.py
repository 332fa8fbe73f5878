"""An evaluation kept as an MLflow run. Scores are never lost to it: a server that is down costs a line on stderr."""

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgseg.evaluation import Evaluation, flat_scores

DEFAULT_STORE = "sqlite:///mlflow.db"


def metrics(found: Evaluation) -> dict[str, float]:
    """By the same names as a run's scores, so that MLflow's pages compare them."""
    named = {domain: result.named_scores() for domain, result in found.domains.items()}
    for domain, result in found.domains.items():
        named[domain] |= {"images": result.images, "corrupt": result.corrupt}
    return {name: value for name, value in flat_scores(named, found.averages()).items() if math.isfinite(value)}


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
