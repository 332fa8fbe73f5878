"""torch, its GPU, and which implementation serves each operator, and why."""

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgseg.cli.doctor.finding import Finding, Settings

AREA = "torch and operators"

_ISAS = ("baseline", "avx2", "avx512")


def torch_itself(_: Settings) -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding(AREA, "torch", "broken", f"does not import: {error}", "pip install 'torch>=2.10,<3'", stops=True)
        return
    kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Finding(AREA, "torch", "ok", f"{torch.__version__} ({kind})")
    threads, processors = torch.get_num_threads(), _processors()
    detail = f"{threads} for {processors:g} processors"
    if threads > processors:
        yield Finding(AREA, "threads", "slow", detail, f"OMP_NUM_THREADS={max(1, int(processors))}")
    elif threads == 1 < processors:
        yield Finding(AREA, "threads", "slow", detail, "unset OMP_NUM_THREADS")
    else:
        yield Finding(AREA, "threads", "ok", detail)
    yield from _gpu(torch)


def backend_variables(_: Settings) -> Iterator[Finding]:
    backend = os.environ.get("DGSEG_BACKEND", "")
    if backend.lower() == "reference":
        yield Finding(AREA, "DGSEG_BACKEND", "slow", "reference: every operator is plain torch", "unset DGSEG_BACKEND")
    elif backend:
        yield Finding(
            AREA, "DGSEG_BACKEND", "broken", f"{backend!r} means nothing", "unset it; reference is all it knows"
        )
    isa = os.environ.get("DGSEG_ISA", "")
    if isa in ("baseline", "avx2"):
        yield Finding(AREA, "DGSEG_ISA", "slow", f"holds the operators down to {isa}", "unset DGSEG_ISA")
    elif isa and isa not in _ISAS:
        yield Finding(AREA, "DGSEG_ISA", "broken", f"{isa!r} means nothing", f"unset it; it knows {', '.join(_ISAS)}")


def native_parts(_: Settings) -> Iterator[Finding]:
    import torch

    folder = Path(importlib.import_module("dgseg").__file__ or "").parent
    built = sorted(path.name for path in (folder / "_lib").glob("*.so"))
    capability = torch.backends.cpu.get_cpu_capability()
    if built:
        yield Finding(AREA, "native libraries", "ok", f"{', '.join(built)}; this processor has {capability}")
    else:
        yield Finding(AREA, "native libraries", "slow", f"none in {folder / '_lib'}", "make build, or install a wheel")
    try:
        importlib.import_module("dgseg._host")
    except ImportError as error:
        yield Finding(
            AREA,
            "host module",
            "broken",
            f"{error}: no streets world, no hardness-aware sampling",
            "make build, or install a wheel",
            stops=True,
        )
    else:
        yield Finding(AREA, "host module", "ok", "streets world and sampling table")


def operators(_: Settings) -> Iterator[Finding]:
    import torch

    from dgseg.ops import backends
    from dgseg.ops._backends import why_reference

    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        served = backends(device)
        for backend in sorted(set(served.values())):
            names = [name for name, by in served.items() if by == backend]
            if backend != "reference":
                yield Finding(AREA, f"operators on {device}", "ok", f"{backend}: {', '.join(names)}")
        for name, backend in served.items():
            if backend == "reference":
                yield Finding(
                    AREA, f"{name} on {device}", "slow", f"plain torch: {why_reference(name, device)}", _remedy()
                )


CHECKS = (torch_itself, backend_variables, native_parts, operators)


def _remedy() -> str:
    forced = os.environ.get("DGSEG_BACKEND", "").lower() == "reference"
    return "unset DGSEG_BACKEND" if forced else "make build, or install a wheel for this machine"


def _gpu(torch: Any) -> Iterator[Finding]:
    driver = _nvidia_smi()
    if torch.cuda.is_available():
        for place in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(place)
            detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, driver {driver or 'unknown'}"
            oldest = min(
                (int(name[3:].rstrip("af")) for name in torch.cuda.get_arch_list() if name[:3] == "sm_"), default=0
            )
            if 10 * properties.major + properties.minor < oldest:
                yield Finding(AREA, f"GPU {place}", "broken", f"{detail}: too old for this torch", "--run.device cpu")
            else:
                yield Finding(AREA, f"GPU {place}", "ok", detail)
    elif driver is None:
        yield Finding(
            AREA,
            "GPU",
            "missing",
            "none: training runs on the processor",
            "fine for the streets recipes; the papers' take weeks",
        )
    elif not torch.version.cuda:
        yield Finding(AREA, "GPU", "broken", f"driver {driver}, but this torch has no CUDA", "install torch with CUDA")
    else:
        yield Finding(
            AREA,
            "GPU",
            "broken",
            f"driver {driver} is there and torch sees no GPU",
            f"unset CUDA_VISIBLE_DEVICES, or update the driver for CUDA {torch.version.cuda}",
        )


def _nvidia_smi() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return "that does not answer"
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else None


def _processors() -> float:
    """That this process may use: pinned to, and as a container's quota allows."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else min(allowed, int(quota) / int(period))
