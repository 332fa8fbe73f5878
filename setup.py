"""Builds the native code by driving CMake; everything else about the package stands in pyproject.toml."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configures and builds CMakeLists.txt; the libraries land in dgseg/_lib, the module beside it."""

    def run(self) -> None:
        package = ROOT / "dgseg" if self.inplace else Path(self.build_lib).resolve() / "dgseg"
        build = ROOT / "build" / ("inplace" if self.inplace else "wheel")
        configure = [
            "cmake",
            f"-S{ROOT}",
            f"-B{build}",
            "-GNinja",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DDGSEG_LIBRARY_DIR={package / '_lib'}",
            f"-DDGSEG_HOST_DIR={package}",
        ]
        options = {"DGSEG_TESTS": "OFF"} | {
            name: os.environ[name]
            for name in ("DGSEG_TESTS", "DGSEG_CUDA", "DGSEG_CUDA_ARCHITECTURES")
            if name in os.environ
        }
        configure += [f"-D{name}={value}" for name, value in options.items()]
        # An environment that is not activated has its cmake and ninja beside its Python, not on PATH.
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
        environment = os.environ | {"PATH": path}
        subprocess.run(configure, check=True, env=environment)
        subprocess.run(["cmake", "--build", str(build)], check=True, env=environment)

    def get_outputs(self) -> list[str]:
        return []


setup(ext_modules=[Extension("dgseg._host", sources=[])], cmdclass={"build_ext": CMakeBuild})
