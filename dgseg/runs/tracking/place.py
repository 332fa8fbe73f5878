"""Where things are: the tracking server, a run's spool, and what a run is known by after a restart."""

import getpass
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from dgseg.runs.tracking.spool import read_json

if TYPE_CHECKING:  # it brings torch, which the sender has no use for
    from dgseg.training.storage import Storage

# MLflow's own are minutes long; a request that fails here is made again, in order, for as long as the run lives.
HTTP = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}

_REMOTE_NAME = "mlflow.json"


def absolute(uri: str) -> str:
    """A tracking URI that means the same from every folder."""
    scheme, found, path = uri.partition(":///")
    if found and scheme.startswith("sqlite") and not path.startswith("/"):
        return f"{scheme}:///{Path.cwd() / path}"
    if uri in ("databricks", "databricks-uc"):
        return uri
    if ":" not in uri or uri.startswith("file:"):
        raise ValueError(f"MLflow keeps runs in a database, no longer in a folder like {uri}: sqlite:///mlflow.db")
    return uri


def artifacts_of(uri: str) -> str | None:
    """Beside a local database; None: a server knows its own place for artifacts."""
    if not uri.startswith("sqlite"):
        return None
    return (Path(uri.partition(":///")[2]).parent / "mlartifacts").as_uri()


def without_password(uri: str) -> str:
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))


def spool_folder(run_folder: str) -> Path:
    """In the run's folder; for one that is no local path, in this machine's temporary folder."""
    if "://" not in run_folder:
        return Path(run_folder).absolute() / "mlflow"
    digest = hashlib.sha256(run_folder.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"dgseg-{getpass.getuser()}" / f"mlflow-{digest}"


def identity_in(folder: "Storage", name: str) -> dict[str, Any]:
    """What an earlier process of the run left, {} for a new run. Of a run in a bucket only its key, so that another
    machine goes on with it."""
    local = read_json(spool_folder(folder.url) / name)
    if folder.local is not None:
        return local
    if not folder.exists(_REMOTE_NAME):
        return {}
    kept: dict[str, Any] = json.loads(folder.read(_REMOTE_NAME))
    return local if local.get("key") == kept["key"] else kept


def keep_identity(folder: "Storage", identity: dict[str, Any]) -> None:
    if folder.local is None:
        folder.write(_REMOTE_NAME, json.dumps({name: identity[name] for name in ("key", "started")}).encode())


def use_short_timeouts() -> None:
    for name, value in HTTP.items():
        os.environ.setdefault(name, value)
