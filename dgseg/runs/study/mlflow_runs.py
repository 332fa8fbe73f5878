"""Finished runs as MLflow has them, and the run that a study's runs are shown under."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dgseg.evaluation import names
from dgseg.runs.study.records import VALIDATION, Curve, Found, Record, finite
from dgseg.runs.tracking import mlflow
from dgseg.runs.tracking.content import LOSS
from dgseg.runs.tracking.listener import MlflowConfig
from dgseg.runs.tracking.mlflow import TrackingWarning, database_of, tagged, without_password

_CURVES = {"loss": f"{LOSS}/total", VALIDATION: VALIDATION}
_SCORE = re.compile(r"/(miou|macc|pixel_accuracy|iou/[^/]+)$")  # rather than a loss or a time
_STUDY = "dgseg.runs.study"
# MLflow's pages chart only the runs that they list, and list a parent's once it is opened.
_HINT = "The runs open with the + before this one's name in the list; grouped by the tag row, charts show means."


def from_mlflow(
    config: MlflowConfig,
    *,
    experiments: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    runs: Sequence[str] = (),
    curves: bool = False,
) -> Found:
    """Runs by their ids, or of the experiments (none named: config's) those that have all the tags."""
    client = _reader(config)
    try:
        found = [client.get_run(each) for each in runs] or _search(client, experiments or [config.experiment], tags)
        records, left_out = [], {}
        for run in found:
            name = f"{run.info.run_name} ({run.info.run_id[:8]})"
            record = _record(run)
            if run.info.status != "FINISHED":
                left_out[name] = run.info.status.lower()
            elif record is None:
                left_out[name] = "no test scores, as a parent has none"
            else:
                records.append(replace(record, curves=_curves(client, run)) if curves else record)
    except MlflowException as error:
        raise ValueError(f"MLflow at {config.uri}: {error.message}") from error
    return Found(records, left_out)


def parent(config: MlflowConfig, study: str, description: str) -> MlflowConfig:
    """The configuration for a study's runs: shown under one parent, the same one whenever the study goes on."""
    try:
        client = mlflow.connect(str(config.uri))
        note = {"mlflow.note.content": f"{description}\n\n{_HINT}"}
        run = mlflow.open_run(client, config.experiment, Path(study).name, (_STUDY, study), note)
    except MlflowException as error:
        _warn(config, f"the study has no run there to show its runs under, which keep their records ({error.message})")
        return config
    return replace(config, parent=run.info.run_id)


def close(config: MlflowConfig, finished: bool) -> None:
    """Says of the parent that its runs have ended."""
    if config.parent is None:
        return
    try:
        mlflow.connect(str(config.uri)).set_terminated(config.parent, "FINISHED" if finished else "KILLED")
    except (MlflowException, ValueError) as error:  # what has been trained is reported all the same
        _warn(config, f"it is not told that the study has ended ({error})")


def _warn(config: MlflowConfig, message: str) -> None:
    warnings.warn(f"MLflow at {without_password(str(config.uri))}: {message}", TrackingWarning, stacklevel=3)


def _reader(config: MlflowConfig) -> MlflowClient:
    database = database_of(str(config.uri))
    if database and not database.exists():
        raise ValueError(
            f"there is no {database}; name runs' folders, the server or database with --uri, or set MLFLOW_TRACKING_URI"
        )
    return mlflow.connect(str(config.uri))


def _search(client: MlflowClient, experiments: Sequence[str], tags: Mapping[str, str] | None) -> list[Run]:
    ids = []
    for name in experiments:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            there = ", ".join(each.name for each in client.search_experiments())
            raise ValueError(f"MLflow has no experiment {name!r}; it has {there}")
        ids.append(experiment.experiment_id)
    wanted = " and ".join(tagged(name, value) for name, value in (tags or {}).items())
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(ids, wanted, order_by=["attributes.start_time ASC"], page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _record(run: Run) -> Record | None:
    scores = {
        name: value
        for name, value in run.data.metrics.items()
        if name == VALIDATION or (_SCORE.search(name) and not name.startswith(f"{names.VALIDATION}/"))
    }
    if not scores.keys() - {VALIDATION} or "seed" not in run.data.params:
        return None
    return Record(
        name=run.info.run_name,
        where=run.info.run_id,
        seed=int(run.data.params["seed"]),
        fields=dict(run.data.params),
        scores=finite(scores),
        made={"commit": run.data.tags.get("mlflow.source.git.commit")},
    )


def _curves(client: MlflowClient, run: Run) -> dict[str, Curve]:
    found = {}
    for name, metric in _CURVES.items():
        if metric in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, metric)
            found[name] = tuple(sorted({point.step: point.value for point in points}.items()))
    return found
