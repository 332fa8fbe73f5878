"""An evaluation kept as an MLflow run. Scores are never lost to it: a server that is down costs a line on stderr."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgseg.cli.arguments import run_name
from dgseg.evaluation import Evaluation, flat_scores


def metrics(found: Evaluation) -> dict[str, float]:
    """By the same names as a run's scores, so that MLflow's pages compare them."""
    named = {domain: result.named_scores() for domain, result in found.domains.items()}
    for domain, result in found.domains.items():
        named[domain] |= {"images": result.images, "corrupt": result.corrupt}
    return {name: value for name, value in flat_scores(named, found.averages()).items() if math.isfinite(value)}


def keep(found: Evaluation, facts: Mapping[str, Any], experiment: str, report: Path | None) -> str:
    """What became of it, in a sentence."""
    from mlflow.entities import Metric

    from dgseg.runs.tracking import mlflow

    uri = mlflow.absolute()
    store = mlflow.without_password(uri)
    try:
        client = mlflow.connect(uri)
        where = mlflow.experiment(client, experiment)
        run = client.create_run(where, run_name=f"{run_name(Path(facts['weights']))} {found.protocol.name}").info.run_id
        now = time.time_ns() // 1_000_000
        points = [Metric(name, value, now, 0) for name, value in metrics(found).items()]
        mlflow.log(client, run, metrics=points, params={**facts, "protocol": found.protocol.name})
        client.log_text(run, found.describe() + "\n", "protocol.txt")
        client.log_dict(run, {**facts, **found.as_dict()}, "evaluation.json")
        if report is not None:
            client.log_artifact(run, str(report))
        client.set_terminated(run)
    except Exception as error:  # a store fails in many ways, and none of them concerns the scores
        return f"no MLflow run: {store} does not take it ({type(error).__name__}: {str(error).strip()[:120]} …)"
    return f"MLflow run {run} of {experiment} in {store}"
