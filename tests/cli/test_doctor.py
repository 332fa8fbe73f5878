"""dgseg doctor speaks about everything, whatever is broken, and is quick about it."""

import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import dgseg
from dgseg.cli.doctor import datasets, machine, operators, services
from dgseg.cli.doctor.finding import Finding, Settings, guarded

NOWHERE = "/proc/nowhere"  # not even root can write there
SETTINGS = Settings("runs", ())


def dead_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_machine_on_which_everything_is_broken(tmp_path: Path):
    """A package without its native code, servers that are down, folders that cannot be written, data that is not there:
    one report, every line with its remedy, exit status 1."""
    shutil.copytree(
        Path(dgseg.__file__).parent, tmp_path / "dgseg", ignore=shutil.ignore_patterns("*.so", "__pycache__", "results")
    )
    tracking, ray = f"http://127.0.0.1:{dead_port()}", f"127.0.0.1:{dead_port()}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "DGSEG_BACKEND": "nonsense",
        "DGSEG_ISA": "mmx",
        "DGSEG_CACHE": NOWHERE,
        "MLFLOW_TRACKING_URI": tracking,
        "RAY_ADDRESS": ray,
        "CXX": "/no/compiler",
    }
    command = [sys.executable, "-m", "dgseg", "doctor", "--json", "--runs", f"{NOWHERE}/runs"]
    command += ["--data", f"folder={tmp_path / 'none'}", "--data", "nonsense"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert not report["can_train"]
    found: dict[str, dict[str, Any]] = {each["name"]: each for each in report["findings"]}
    for name, status, stops in [
        (f"runs in {NOWHERE}/runs", "broken", True),
        ("cache folder", "slow", False),
        ("C++ compiler", "missing", False),
        ("DGSEG_BACKEND", "broken", False),
        ("DGSEG_ISA", "broken", False),
        ("native libraries", "slow", False),
        ("host module", "broken", True),
        ("boundary_bands on cpu", "slow", False),
        (f"Ray cluster at {ray}", "broken", True),
        (f"MLflow at {tracking}", "broken", False),
        ("nonsense", "broken", True),
        (f"folder={tmp_path / 'none'}", "broken", True),
    ]:
        assert (found[name]["status"], found[name]["stops"]) == (status, stops), found[name]
        assert found[name]["mend"], f"{name} has no remedy"
    assert "was not built" in found["boundary_bands on cpu"]["detail"]


def test_this_machine_can_train(tmp_path: Path):
    settings = Settings(str(tmp_path / "runs"), ("streets=fog@test,size=64x128",))
    findings = [
        finding
        for module in (machine, operators, datasets)
        for check in module.CHECKS
        for finding in guarded(module.AREA, check, settings)
    ]
    assert not [finding for finding in findings if finding.stops]
    assert not list(tmp_path.iterdir()), "looking leaves nothing behind"
    assert by_name(findings)["streets=fog@test,size=64x128"].detail.endswith("the first is 64x128")
    assert "boundary_bands" in str(findings)


def test_a_check_that_fails_itself_is_a_finding():
    def gpu_weather(_: Settings):
        raise RuntimeError("clouds")
        yield

    (finding,) = guarded("sky", gpu_weather, SETTINGS)
    assert (finding.status, finding.name) == ("broken", "gpu weather")
    assert "clouds" in finding.detail


def test_every_reference_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DGSEG_BACKEND", "reference")
    findings = list(operators.operators(SETTINGS))
    assert {finding.status for finding in findings} == {"slow"}
    assert all("DGSEG_BACKEND=reference" in finding.detail for finding in findings)
    (variable,) = operators.backend_variables(SETTINGS)
    assert variable.mend == "unset DGSEG_BACKEND"


@pytest.mark.parametrize(
    ("threads", "processors", "mend"), [(8, 4.0, "OMP_NUM_THREADS=4"), (1, 4.0, "unset OMP_NUM_THREADS"), (4, 4.0, "")]
)
def test_threads_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, threads: int, processors: float, mend: str):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(operators, "_processors", lambda: processors)
    assert by_name(list(operators.torch_itself(SETTINGS)))["threads"].mend == mend


def test_few_open_files_are_slow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    (finding,) = machine.open_files(SETTINGS)
    assert (finding.status, finding.mend) == ("slow", "ulimit -n 4096")


def test_a_small_shared_memory_says_what_will_happen(monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=64 << 20))
    (finding,) = machine.shared_memory(SETTINGS)
    assert finding.status == "broken"
    assert "--shm-size" in finding.mend


@pytest.mark.parametrize(
    ("free", "status", "stops"), [(1e8, "broken", True), (5e9, "slow", False), (1e12, "ok", False)]
)
def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, status: str, stops: bool):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(free)))
    (finding,) = machine.runs_folder(Settings(str(tmp_path), ()))
    assert (finding.status, finding.stops) == (status, stops)


def test_servers_that_never_answer_are_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(services, "_ANSWER", 0.5)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        began = time.monotonic()
        assert services.tracking(uri).status == "broken"
        monkeypatch.setenv("RAY_ADDRESS", uri)
        (finding,) = services.cluster()
        assert (finding.status, finding.stops) == ("broken", True)
        assert time.monotonic() - began < 5


def test_databases_that_mlflow_could_and_could_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(services, "_ANSWER", 0.2)
    assert services.tracking(f"sqlite:///{tmp_path / 'new.db'}").status == "ok"
    assert not (tmp_path / "new.db").exists()
    assert services.tracking(f"sqlite:///{NOWHERE}/mlflow.db").status == "broken"
    assert "sqlite:///" in services.tracking("mlruns").mend
    (tmp_path / "garbage.db").write_bytes(b"no database" * 1000)
    assert "not a database" in services.tracking(f"sqlite:///{tmp_path / 'garbage.db'}").detail
    with sqlite3.connect(tmp_path / "locked.db", isolation_level=None) as other:
        other.execute("CREATE TABLE runs (id)")
        assert services.tracking(f"sqlite:///{tmp_path / 'locked.db'}").detail == "writable, 0 runs"
        other.execute("BEGIN EXCLUSIVE")
        assert "locked" in services.tracking(f"sqlite:///{tmp_path / 'locked.db'}").detail


def test_a_password_is_never_shown():
    finding = services.tracking(f"http://me:secret@127.0.0.1:{dead_port()}")
    assert "secret" not in str(finding)


@pytest.mark.slow
def test_a_real_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    port, dashboard = dead_port(), dead_port()
    folder = Path("/tmp") / f"dgseg-doctor-{os.getpid()}"  # Ray's sockets allow only short paths
    command = ["--head", "--num-cpus=3", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--disable-usage-stats", "--block"]
    ray = Path(sys.executable).with_name("ray")
    with (tmp_path / "log").open("wb") as log:
        head = subprocess.Popen([ray, "start", *command], stdout=log, stderr=log, start_new_session=True)
    try:
        for address in (f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}"):
            monkeypatch.setenv("RAY_ADDRESS", address)
            until = time.monotonic() + 60
            while (found := list(services.cluster()))[0].status != "ok" and time.monotonic() < until:
                time.sleep(1)
            assert found[0].status == "ok", (found, (tmp_path / "log").read_text())
            assert "1 node, 3 CPUs" in found[0].detail
    finally:
        os.killpg(head.pid, 15)
        head.wait(120)  # it ends its own services first
        shutil.rmtree(folder, ignore_errors=True)
