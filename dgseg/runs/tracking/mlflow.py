"""MLflow, as everything here talks to it: where it is, experiments, runs, and points by the batch."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
    MAX_TAG_VAL_LENGTH,
)

T = TypeVar("T")

DEFAULT = "sqlite:///mlflow.db"
# MLflow's own are minutes long. What fails is tried again by the shipper, for as long as its run lives.
HTTP = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}


class TrackingWarning(UserWarning):
    """The record in MLflow lags behind or lacks something; everything else goes on."""


def absolute(uri: str | None = None) -> str:
    """A tracking URI that means the same from every folder; None: MLFLOW_TRACKING_URI, else mlflow.db here."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT
    scheme, separator, path = uri.partition(":///")
    if separator and scheme.startswith("sqlite") and not path.startswith("/"):
        return f"{scheme}:///{Path.cwd() / path}"
    if uri in ("databricks", "databricks-uc"):
        return uri
    if ":" not in uri or uri.startswith("file:"):
        raise ValueError(f"MLflow keeps runs in a database, no longer in a folder like {uri}: {DEFAULT}")
    return uri


def without_password(uri: str) -> str:
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))


def database_of(uri: str) -> Path | None:
    """The file of a local database; None: a server."""
    return Path(uri.partition(":///")[2]) if uri.startswith("sqlite") else None


def connect(uri: str) -> MlflowClient:
    for name, value in HTTP.items():
        os.environ.setdefault(name, value)
    for noisy in ("mlflow", "alembic"):  # which tell of every table that they make
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return MlflowClient(uri)


def experiment(client: MlflowClient, name: str) -> str:
    """Its id; it is made where it is absent, with its files beside a local database."""
    found = client.get_experiment_by_name(name)
    if found is None:
        database = database_of(client.tracking_uri)
        with suppress(MlflowException):  # another run was quicker
            return str(client.create_experiment(name, database and (database.parent / "mlartifacts").as_uri()))
        found = client.get_experiment_by_name(name)
        if found is None:
            raise MlflowException(f"the experiment {name!r} can be neither found nor made")
    if found.lifecycle_stage == "deleted":
        raise MlflowException(
            f"the experiment {name!r} was deleted in MLflow: "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}` brings it back"
        )
    return str(found.experiment_id)


def tagged(name: str, value: str) -> str:
    quote = '"' if "'" in value else "'"  # MLflow's filters know no escapes
    return f"tags.`{name}` = {quote}{value}{quote}"


def open_run(
    client: MlflowClient,
    experiment_name: str,
    name: str,
    tag: tuple[str, str],
    tags: Mapping[str, str] | None = None,
    started: int | None = None,
) -> Run:
    """The run that has `tag`, which tells it from every other; begun where it is absent."""
    where = experiment(client, experiment_name)
    found = client.search_runs([where], tagged(*tag), ViewType.ALL, max_results=1)
    run = (
        client.get_run(found[0].info.run_id)
        if found
        else client.create_run(where, start_time=started, run_name=name, tags={tag[0]: tag[1], **(tags or {})})
    )
    return living(run)


def living(run: Run) -> Run:
    if run.info.lifecycle_stage == "deleted":
        raise MlflowException(
            f"the run {run.info.run_id} was deleted in MLflow: `mlflow runs restore --run-id {run.info.run_id}` brings "
            "it back"
        )
    return run


def log(
    client: MlflowClient,
    run_id: str,
    *,
    metrics: Sequence[Metric] = (),
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """As many in one request as MLflow takes; texts cut to what it keeps."""
    for points in _parts(metrics, MAX_METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=points, synchronous=True)
    all_params = [Param(key, _cut(str(value), MAX_PARAM_VAL_LENGTH)) for key, value in (params or {}).items()]
    for some_params in _parts(all_params, MAX_PARAMS_TAGS_PER_BATCH):
        client.log_batch(run_id, params=some_params, synchronous=True)
    all_tags = [RunTag(key, _cut(value, MAX_TAG_VAL_LENGTH)) for key, value in (tags or {}).items()]
    for some_tags in _parts(all_tags, MAX_PARAMS_TAGS_PER_BATCH):
        client.log_batch(run_id, tags=some_tags, synchronous=True)


def _parts(values: Sequence[T], size: int) -> Iterable[list[T]]:
    return (list(values[start : start + size]) for start in range(0, len(values), size))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
