"""Run by test_wheel.py in an environment that holds torch, numpy and the dgseg wheel, and nothing to compile with."""

import shutil
import sys
from pathlib import Path

import torch

import dgseg.ops
from dgseg.cli import main

kind = "CPU build" if torch.version.cuda is None else f"CUDA {torch.version.cuda} build"
print(f"torch {torch.__version__}: {kind}", flush=True)
assert Path(sys.prefix) in Path(dgseg.ops.__file__).parents, dgseg.ops.__file__
for compiler in ("cc", "c++", "gcc", "g++", "clang", "nvcc", "cmake", "ninja"):
    assert shutil.which(compiler) is None, compiler
backends = dgseg.ops.backends("cpu")
print(backends)
assert backends, "no operator is registered"
assert set(backends.values()) == {"native"}, backends
built = [argument for operator in backends for argument in ("--op", operator)]
# Compares every operator with its reference, forward and backward.
sys.exit(main(["bench", "ops", "--size", "tiny", "--verify-only", "--alone", *built]))
