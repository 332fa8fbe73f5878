"""What machine this is, and what software: stands beside every number that is kept."""

import functools
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@functools.cache  # of the code that this process has loaded, whatever is committed meanwhile
def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():  # installed: a repository around it would be somebody else's
        return None
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine(device: torch.device = CPU, libraries: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Where and with what something was measured; libraries: (name, distribution) of those that matter beside torch."""
    hardware: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        hardware |= {"gpu": properties.name, "compute_capability": f"{properties.major}.{properties.minor}"}
        hardware["gpu_memory_gb"] = round(properties.total_memory / 2**30, 1)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    for module, distribution in [
        ("triton", "triton"),
        ("numpy", "numpy"),
        *libraries,
        ("dgseg", "dgseg"),
    ]:
        try:
            versions[module] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            versions[module] = None
    # A job's working directory leaves the repository behind: whoever submits it says what it was.
    commit, changes = os.environ.get("DGSEG_COMMIT") or _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {
        "hardware": hardware,
        "versions": versions,
        "commit": commit,
        "uncommitted_changes": None if changes is None else bool(changes),
        "environment": {name: os.environ[name] for name in ("DGSEG_BACKEND", "DGSEG_ISA") if name in os.environ},
    }
