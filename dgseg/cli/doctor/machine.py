"""Python, compilers, memory, files: what a training needs of the machine itself."""

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dgseg.cli.doctor.finding import Finding, Settings, gigabytes

AREA = "machine"

_LITTLE_DISK, _NO_DISK = 10e9, 5e8
_LITTLE_MEMORY = 4e9
_LITTLE_SHARED = 1e9
_FEW_FILES = 4096


def python(_: Settings) -> Iterator[Finding]:
    yield Finding(AREA, "Python", "ok", f"{platform.python_version()}, {sys.executable}")


def memory(_: Settings) -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = _available() or total
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    if limit is not None and limit < total:
        used = _number(Path("/sys/fs/cgroup/memory.current")) or 0
        total, free = limit, min(free, limit - used)
    detail = f"{gigabytes(free)} free of {gigabytes(total)}"
    if free < _LITTLE_MEMORY:
        yield Finding(AREA, "memory", "slow", detail, "close other programs, or lower data.batch_size and data.loaders")
    else:
        yield Finding(AREA, "memory", "ok", detail)


def shared_memory(_: Settings) -> Iterator[Finding]:
    """Loaders hand their batches over in it: when it is full they die of a bus error."""
    if not Path("/dev/shm").exists():
        return
    size = shutil.disk_usage("/dev/shm").total
    if size < _LITTLE_SHARED:
        yield Finding(
            AREA,
            "shared memory",
            "broken",
            f"/dev/shm holds {gigabytes(size)}: loaders may die of a bus error",
            "start the container with --shm-size=8g, or train with --data.loaders 0",
        )
    else:
        yield Finding(AREA, "shared memory", "ok", gigabytes(size))


def open_files(_: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_FILES:
        highest = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
        yield Finding(
            AREA, "open files", "slow", f"at most {soft}: loaders and Ray may run out", f"ulimit -n {highest}"
        )
    else:
        yield Finding(AREA, "open files", "ok", f"at most {'any number' if soft == resource.RLIM_INFINITY else soft}")


def runs_folder(settings: Settings) -> Iterator[Finding]:
    if "://" in settings.runs:
        yield from _bucket(settings.runs)
        return
    name = f"runs in {settings.runs}"
    if reason := _unwritable(Path(settings.runs)):
        yield Finding(
            AREA, name, "broken", reason, "name a folder that you may write: --run.storage FOLDER", stops=True
        )
        return
    free = shutil.disk_usage(_existing(Path(settings.runs))).free
    detail = f"writable, {gigabytes(free)} free"
    if free < _NO_DISK:
        yield Finding(AREA, name, "broken", detail, "make room: not one checkpoint fits", stops=True)
    elif free < _LITTLE_DISK:
        yield Finding(AREA, name, "slow", detail, "make room, or keep fewer checkpoints: --run.keep 1")
    else:
        yield Finding(AREA, name, "ok", detail)


def cache_folder(_: Settings) -> Iterator[Finding]:
    folder = Path(os.environ.get("DGSEG_CACHE") or "~/.cache/dgseg").expanduser()
    if reason := _unwritable(folder):
        yield Finding(
            AREA,
            "cache folder",
            "slow",
            f"{reason}: classes are counted again at every start",
            "let DGSEG_CACHE name a folder that you may write",
        )
    else:
        yield Finding(AREA, "cache folder", "ok", str(folder))


def compilers(_: Settings) -> Iterator[Finding]:
    chosen = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if chosen is None or not shutil.which(chosen):
        yield Finding(
            AREA,
            "C++ compiler",
            "missing",
            f"{chosen} is not there" if chosen else "none: dgseg cannot be built, torch.compile and Triton cannot work",
            "install g++, or set CXX",
        )
    else:
        yield Finding(AREA, "C++ compiler", "ok", _first_line(chosen, "--version"))
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc") or (home and shutil.which(str(Path(home) / "bin" / "nvcc")))
    if nvcc:
        yield Finding(AREA, "nvcc", "ok", f"{_last_line(nvcc, '--version')}, {nvcc}")
    else:
        yield Finding(
            AREA, "nvcc", "missing", "needed only to build for GPUs", "install a CUDA toolkit, or pip install dgseg"
        )


CHECKS = (python, memory, shared_memory, open_files, runs_folder, cache_folder, compilers)


def _bucket(uri: str) -> Iterator[Finding]:
    from pyarrow import fs

    name = f"runs in {uri}"
    try:
        fs.FileSystem.from_uri(uri)
    except Exception as error:
        yield Finding(
            AREA, name, "broken", str(error), "name a path, or what pyarrow opens: s3://bucket/runs", stops=True
        )
        return
    yield Finding(AREA, name, "ok", "an address that pyarrow knows; whether it can be written is not tried")


def _existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written there. Tried, not asked: permissions do not tell of read-only file systems."""
    there = _existing(folder)
    if not there.is_dir():
        return f"{there} is a file"
    try:
        with tempfile.TemporaryDirectory(prefix=".dgseg-doctor-", dir=there):
            return None
    except OSError as error:
        return f"{there} cannot be written ({error.strerror})"


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    return [line for line in (done.stdout or done.stderr).splitlines() if line.strip()] or ["says nothing"]


def _first_line(*command: str) -> str:
    return _lines(*command)[0]


def _last_line(*command: str) -> str:
    return _lines(*command)[-1]
