"""Ray, MLflow and DeepSpeed: there, importable, and their servers reachable. Nothing here waits longer than seconds."""

import base64
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dgseg.cli.doctor.finding import Finding, Settings

AREA = "services"

_ANSWER = 3.0  # seconds that a server has
_IMPORT = 10.0  # seconds that a library has

_CLUSTER = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps([len([node for node in ray.nodes() if node["Alive"]]), ray.cluster_resources()]))
"""


class Probes:
    """Python processes that import what is slow to import, or hang where this process must not; all at once."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._running = {name: _python(f"import {name}") for name in ("ray", "mlflow", "deepspeed") if _version(name)}

    def library(self, name: str, shown: str, use: str) -> Finding:
        found = _version(name)
        if found is None:
            return Finding(AREA, shown, "missing", f"not installed; {use}", "pip install 'dgseg[train]'")
        process = self._running[name]
        try:
            _, errors = process.communicate(timeout=max(0.1, self._started + _IMPORT - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            slow = f"{found}: its import takes longer than {_IMPORT:g} s"
            return Finding(AREA, shown, "slow", slow, "look again when the machine and its disk are less busy")
        if process.returncode:
            reason = (errors.strip().splitlines() or ["its import failed"])[-1]
            return Finding(
                AREA, shown, "broken", f"{found}: {reason}", f"pip install --force-reinstall {name}=={found}"
            )
        return Finding(AREA, shown, "ok", found)

    def ray(self, _: Settings) -> Iterator[Finding]:
        library = self.library("ray", "Ray", "training in one process and under torchrun works without")
        yield library
        if library.status in ("ok", "slow"):
            yield from cluster()

    def mlflow(self, _: Settings) -> Iterator[Finding]:
        library = self.library("mlflow", "MLflow", "training works without a record")
        yield library
        if library.status in ("ok", "slow"):
            yield tracking(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")

    def deepspeed(self, _: Settings) -> Iterator[Finding]:
        yield self.library("deepspeed", "DeepSpeed", "only --run.strategy deepspeed needs it")

    @property
    def checks(self) -> tuple[Any, ...]:
        return (self.ray, self.mlflow, self.deepspeed)


def cluster() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    name = f"Ray cluster at {address}" if address else "Ray cluster"
    if not address:
        current = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
        local = current.read_text().strip() if current.exists() else ""
        found = f"a local one listens at {local}" if local and _listens(local) else "a local one is started when needed"
        yield Finding(AREA, name, "ok", f"none named by RAY_ADDRESS: {found}")
        return
    mend = "start it, or unset RAY_ADDRESS to train on this machine"
    if address.startswith("http"):
        yield _dashboard(name, address, mend)
    elif not _listens(address):
        yield Finding(AREA, name, "broken", "nothing answers there", mend, stops=True)
    elif address.startswith("ray://"):
        yield Finding(AREA, name, "ok", "something listens there")
    else:
        probe = _python(_CLUSTER, address)
        try:
            output, errors = probe.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            probe.kill()
            yield Finding(AREA, name, "broken", "it does not let a driver join within 10 s", mend, stops=True)
            return
        if probe.returncode:
            reason = (errors.strip().splitlines() or ["no driver can join"])[-1]
            yield Finding(AREA, name, "broken", reason, mend, stops=True)
        else:
            nodes, resources = json.loads(output.splitlines()[-1])
            yield Finding(AREA, name, "ok", _resources(nodes, resources))


def _dashboard(name: str, address: str, mend: str) -> Finding:
    headers = {}
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    try:
        known = json.loads(_get(f"{address.rstrip('/')}/api/version", headers))
        nodes = json.loads(_get(f"{address.rstrip('/')}/nodes?view=summary", headers))["data"]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Finding(
                AREA, name, "broken", "it asks for a token", "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN", True
            )
        return Finding(AREA, name, "broken", str(error), mend, stops=True)
    except (OSError, ValueError, KeyError) as error:
        return Finding(AREA, name, "broken", f"no dashboard answers there ({_short(error)})", mend, stops=True)
    total: dict[str, float] = {}
    for node in nodes["summary"]:
        for resource, amount in node.get("raylet", {}).get("resourcesTotal", {}).items():
            total[resource] = total.get(resource, 0) + amount
    found = f"Ray {known.get('ray_version')}, {_resources(len(nodes['summary']), total)}"
    if not total:
        return Finding(AREA, name, "broken", f"{found}: nothing can run there yet", "wait for its nodes", stops=True)
    ours = _version("ray")
    if known.get("ray_version") != ours:
        return Finding(AREA, name, "broken", f"{found}; here is {ours}", f"pip install ray=={known.get('ray_version')}")
    return Finding(AREA, name, "ok", found)


def tracking(uri: str) -> Finding:
    name = f"MLflow at {_without_password(uri)}"
    mend = "start it, or set MLFLOW_TRACKING_URI; training runs meanwhile and keeps its record for later"
    if uri.startswith("sqlite:"):
        return _sqlite(name, Path(uri.partition(":///")[2]))
    if ":" not in uri or uri.startswith("file:"):
        reason = "MLflow keeps runs in a database, no longer in a folder"
        return Finding(AREA, name, "broken", reason, "MLFLOW_TRACKING_URI=sqlite:///mlflow.db")
    if not uri.startswith("http"):
        return Finding(AREA, name, "ok", "not tried: neither a server nor a local database")
    headers = {"Content-Type": "application/json", **_mlflow_login(uri)}
    base = _without_login(uri).rstrip("/")
    try:
        _get(f"{base}/health", headers)
        # An experiment without a name is refused by everybody who would take one with a name, and leaves no trace.
        _get(f"{base}/api/2.0/mlflow/experiments/create", headers, b'{"name": ""}')
    except urllib.error.HTTPError as error:
        if error.code == 400:
            return Finding(AREA, name, "ok", "answers and takes runs")
        if error.code in (401, 403):
            login = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return Finding(AREA, name, "broken", "it does not let this user write", login)
        return Finding(AREA, name, "broken", str(error), mend)
    except OSError as error:
        return Finding(AREA, name, "broken", f"does not answer ({_short(error)})", mend)
    return Finding(AREA, name, "broken", "answers, but not as MLflow does", mend)


def _sqlite(name: str, path: Path) -> Finding:
    mend = "let MLFLOW_TRACKING_URI name a database that you may write: sqlite:////data/mlflow.db"
    if not path.exists():
        folder = path.absolute().parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                return Finding(AREA, name, "ok", "is made by the first run")
        except OSError as error:
            return Finding(AREA, name, "broken", f"{folder} cannot be written ({error.strerror})", mend)
    try:
        connection = sqlite3.connect(path, timeout=_ANSWER, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Finding(AREA, name, "broken", f"{path}: {error}", mend)
    return Finding(AREA, name, "ok", f"writable, {runs} runs")


def _mlflow_login(uri: str) -> dict[str, str]:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or urlsplit(uri).username
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or urlsplit(uri).password
    if not user or not password:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _without_login(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _without_password(uri: str) -> str:
    return _without_login(uri) if urlsplit(uri).password else uri


def _get(url: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=_ANSWER) as answer:
        content: bytes = answer.read()
        return content


def _listens(address: str) -> bool:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _resources(nodes: int, resources: dict[str, float]) -> str:
    kinds = [f"{resources[kind]:g} {kind}s" for kind in ("CPU", "GPU") if resources.get(kind)]
    return f"{nodes} node{'s' if nodes != 1 else ''}, {', '.join(kinds) or 'no resources'}"


def _short(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
