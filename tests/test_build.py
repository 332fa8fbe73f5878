"""What the build must hold, whoever writes the kernels: no code leaks between instruction sets, the libraries need
nothing but torch's stable ABI, and dgseg.ops needs nothing but torch and numpy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "inplace"
CPU_LIBRARY = ROOT / "dgseg" / "_lib" / "libdgseg_cpu.so"
CUDA_LIBRARY = ROOT / "dgseg" / "_lib" / "libdgseg_cuda.so"

built = pytest.mark.skipif(not (BUILD / "CMakeCache.txt").exists(), reason=f"{BUILD} is absent: run make build")


def tool(*command: str | Path) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def cached(option: str) -> str | None:
    """An option of the build, as CMake remembers it."""
    found = re.search(rf"^{option}:\w+=(.*)$", (BUILD / "CMakeCache.txt").read_text(), re.M)
    return found.group(1) if found else None


@built
def test_no_code_leaks_between_instruction_sets():
    # See csrc/common/isa.h: the linker keeps one copy of every weak symbol, and it may be the AVX-512 one.
    objects = sorted(BUILD.glob("CMakeFiles/dgseg_kernels_*.dir/**/*.o"))
    assert objects
    leaks = []
    for path in objects:
        isa = re.search(r"dgseg_kernels_(\w+)\.dir", str(path)).group(1)
        for line in tool("nm", "-C", "--defined-only", path).splitlines():
            kind, name = line[17:18], line[19:]
            # DW.ref.*: a pointer to a function elsewhere, the same whichever copy stays.
            if kind in "WVu" and f"dgseg::{isa}::" not in name and not name.startswith("DW.ref."):
                leaks.append(f"{path.relative_to(BUILD)}: {name}")
            if kind in "TDBR" and f"dgseg::{isa}::" not in name:
                leaks.append(f"{path.relative_to(BUILD)}: {name} is visible to other instruction sets")
    assert not leaks, "\n".join(leaks)


@pytest.mark.parametrize("library", [CPU_LIBRARY, CUDA_LIBRARY], ids=lambda path: path.name)
def test_library_needs_only_the_stable_abi(library):
    if not library.exists():
        pytest.skip(f"{library.name} is not built here")
    # A run path would point at the torch of the machine that built the wheel.
    assert not re.findall(r"\((?:RPATH|RUNPATH)\)", tool("readelf", "-d", library))
    strangers = []
    for line in tool("nm", "-D", "--undefined-only", library).splitlines():
        kind, name = line.split()
        of_the_system = re.search(r"@(GLIBC|GLIBCXX|CXXABI|GCC)_", name) or kind == "w"
        if not of_the_system and not re.match(r"(aoti_torch_|torch_)", name):
            strangers.append(name)
    assert not strangers, strangers


@built
def test_cuda_kernels_are_compiled_for_every_gpu_asked_for():
    if not list(ROOT.glob("csrc/*/cuda.cu")):
        pytest.skip("there is no CUDA source")
    if not cached("CMAKE_CUDA_COMPILER") or cached("DGSEG_CUDA") == "OFF":
        pytest.skip("built without nvcc")
    assert CUDA_LIBRARY.exists()
    cuobjdump = shutil.which("cuobjdump")
    if cuobjdump is None:
        triton = pytest.importorskip("triton", reason="neither CUDA's cuobjdump nor triton's is installed")
        cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    listed = tool(cuobjdump, "--list-elf", CUDA_LIBRARY)
    for architecture in cached("DGSEG_CUDA_ARCHITECTURES").split(";"):
        assert f"sm_{architecture}" in listed, listed


def test_operators_import_with_torch_and_numpy_alone():
    script = """
import importlib.machinery, sys
blocked = {"ray", "deepspeed", "mlflow", "triton", "cv2", "scipy", "torchmetrics", "torchvision", "timm", "rich"}
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in blocked else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
import torch, dgseg.ops
assert not blocked & sys.modules.keys(), blocked & sys.modules.keys()
labels = torch.randint(0, 19, (1, 8, 8), dtype=torch.uint8)
assert torch.equal(dgseg.ops.boundary_bands(labels, (1,)), dgseg.ops.boundary_bands.reference(labels, (1,)))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
