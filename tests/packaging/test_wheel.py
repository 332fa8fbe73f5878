"""One wheel, built once, serves every torch from 2.10 on, with no compiler in sight."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = Path(__file__).with_name("check_installed.py")

pytestmark = pytest.mark.slow


def run(*command: str | Path, **options: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not pytest's tmp_path: that keeps the last runs, and an environment with torch weighs gigabytes.
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """What a sdist holds, unpacked: a file that MANIFEST.in forgets is missing here."""
    copy = folder / "checkout"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "_lib", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", script, folder / "sdist", cwd=copy)
    (archive,) = (folder / "sdist").glob("dgseg-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "unpacked")  # our own archive; `filter` came with Python 3.11.4
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(folder: Path, source: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-w", folder / "wheel")
    (found,) = (folder / "wheel").glob("dgseg-*.whl")
    return found


def test_the_wheel_holds_the_libraries_and_the_maths(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert "dgseg/_lib/libdgseg_cpu.so" in names
    assert "dgseg/py.typed" in names
    readmes = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("dgseg/ops/*/README.md")}
    assert readmes <= set(names)
    assert not [name for name in names if name.startswith(("tests", "csrc", "build"))]


def test_builds_in_isolation(source: Path, folder: Path):
    run(sys.executable, "-m", "pip", "wheel", source, "--no-deps", "-w", folder / "isolated")
    assert list((folder / "isolated").glob("dgseg-*.whl"))


@pytest.mark.parametrize("torch", ["2.13.0", "2.14.1"])
def test_serves_without_a_compiler(torch: str, wheel: Path, folder: Path):
    home = folder / f"torch-{torch}"
    run(sys.executable, "-m", "venv", home)
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", f"torch=={torch}", "numpy")
    run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DGSEG_", "PYTHON"))}
    run(python, CHECK, cwd=folder, env=kept | {"PATH": str(home / "bin")})
    shutil.rmtree(home)
