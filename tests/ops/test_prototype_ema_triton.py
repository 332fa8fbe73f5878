"""The Triton kernel of prototype_ema_: through the interpreter on CPU tensors, and compiled for real GPUs.

Both run in processes of their own: TRITON_INTERPRET must be set before triton is imported, and must not be for
compiling.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

triton_installed = pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parent.parent.parent


def run_here(function: str, **environment: str) -> None:
    code = f"from tests.ops.test_prototype_ema_triton import {function}; {function}()"
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    done = subprocess.run([sys.executable, "-c", code], env=clean, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(
    triton_installed.__version__.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
    reason="triton 3.6's interpreter cannot loop to a runtime bound with numpy 2.4",
)
def test_interpreted_kernel_equals_the_reference():
    run_here("interpret", TRITON_INTERPRET="1")


def test_interpreted_move_equals_the_reference():
    run_here("interpret_move", TRITON_INTERPRET="1")


def test_compiles_for_every_gpu_generation_without_spills():
    run_here("compile_everywhere")


def interpret() -> None:
    import dgseg.ops.prototype_ema.triton as fused
    from dgseg.ops.prototype_ema.reference import ranks_reference, weighted_sums_reference
    from tests.ops.harness import layouts, normal

    def check(features, C, G, nested, limit, most_programs=256, sparse=False):
        fused.MOST_PROGRAMS = most_programs
        N, _, h, w = features.shape
        g = torch.Generator().manual_seed(1)
        labels = torch.randint(0, C, (N, h, w), generator=g)
        bands = torch.randint(0, G + 1, (N, h, w), generator=g)
        if sparse:
            bands[:, : h - 1] = 0  # most tiles hold nothing
            labels[:, 0] = 10_000  # harmless where no band is
        labels[0, -1, -1], bands[0, -1, -1] = -7, 1  # a bad label names no cell
        ids = torch.arange(N)
        counts, ranks = ranks_reference(labels, bands, ids, 0, 0, C, G, nested, limit)
        scales = torch.rand(C, G, dtype=torch.float64, generator=g) / counts.clamp(min=1)
        fades = torch.rand(C, G, generator=g) < 0.7
        powers = 0.9 ** torch.arange(limit, dtype=torch.float64)
        arguments = (labels, bands, ranks, scales, fades, powers, nested)
        expected = weighted_sums_reference(features.double(), *arguments)
        actual = fused.weighted_sums(features, *arguments)
        tolerance = 1e-14 if features.dtype == torch.float64 else 2e-7
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, equal_nan=True)

    # (N, D, h, w), C, G: why
    cases = {
        ((2, 40, 5, 7), 3, 2): "ragged tiles and channels, two images",
        ((1, 1, 1, 1), 1, 1): "one of everything",
        ((1, 270, 3, 12), 30, 3): "channels in two blocks (norms by a second pass) and cells in two",
        ((1, 130, 4, 9), 5, 2): "the single-read tile of 256 channels, ragged",
    }
    for shape, C, G in cases:
        for nested in (False, True):
            for limit in (0, 6):
                for dtype in (torch.float32, torch.float64):
                    check(normal(*shape, dtype=dtype), C, G, nested, limit)
    for half in (torch.bfloat16, torch.float16):
        check(normal(2, 40, 5, 7, dtype=half), 3, 2, False, 6)
    for layout in layouts(normal(2, 20, 9, 11)).values():
        check(layout, 3, 2, True, 6, most_programs=2)
    check(normal(2, 20, 16, 11), 3, 2, False, 6, sparse=True)
    broken = normal(1, 20, 6, 11)
    broken[0, 3, 2, 2], broken[0, 4, 4, 4], broken[0, :, 1, 1] = float("nan"), float("inf"), 0.0
    check(broken, 3, 2, False, 0)
    check(broken, 3, 2, True, 6)


def interpret_move() -> None:
    from dgseg.ops.prototype_ema.fused import move
    from dgseg.ops.prototype_ema.reference import prototype_ema_reference
    from tests.ops.harness import deterministic_and_poisoned, normal

    C, G, shape = 4, 3, (2, 20, 7, 9)
    g = torch.Generator().manual_seed(2)
    labels = torch.randint(0, C - 1, (2, 7, 9), generator=g)  # the last class stays unseen
    bands = torch.randint(0, G + 1, (2, 7, 9), generator=g)
    ids = torch.tensor([11, -3])
    for by_pixel, nested, momentum, dtype in [
        (False, False, 0.9, torch.float32),
        (False, True, 0.9, torch.float64),
        (True, False, 0.9, torch.float64),
        (True, True, 0.99, torch.float32),
        (True, False, 0.0, torch.float64),
        (True, False, 1.0, torch.float64),
    ]:
        features = normal(*shape, dtype=dtype)
        prototypes, updates = normal(C, G, 20, dtype=dtype, seed=5), torch.ones(C, G, dtype=torch.int64)
        updates[0], prototypes[0] = 0, torch.nan  # never seen: what is there does not matter
        expected, counted = prototypes.double().clone(), updates.clone()
        prototype_ema_reference(
            expected, counted, features.double(), labels, bands, momentum=momentum, nested=nested, seed=3, step=2**40,
            mode="pixel" if by_pixel else "batch_mean", sample_ids=ids,
        )  # fmt: skip
        results = []
        for step_at, step in ((None, 2**40), (torch.tensor(2**40), 0)):
            own, seen = prototypes.clone(), updates.clone()
            with deterministic_and_poisoned():
                maps = labels.byte(), bands.byte()
                move(own, seen, features, *maps, ids, step_at, 3, step, momentum, by_pixel, nested)
            assert torch.equal(seen, counted), (by_pixel, nested)
            tolerance = 1e-12 if dtype == torch.float64 else 2e-6
            case = f"by_pixel={by_pixel} nested={nested} momentum={momentum}"
            torch.testing.assert_close(own.double(), expected, rtol=tolerance, atol=tolerance, msg=case)
            results.append(own)
        assert torch.equal(*results)


def compile_everywhere() -> None:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dgseg.ops.prototype_ema.triton import BLOCK_K, blocks, weighted_sums_kernel

    names = weighted_sums_kernel.arg_names
    pointers = ("features", "thinnest", "weights", "partial")
    aligned = (*pointers, "pixels", "per_image", "depth", "stride_image", "stride_channel")

    def compile_for(capability, element, depth, nested=False, one_run=True, wide=False):
        double = element == "fp64"
        block_p, block_d = blocks(depth, double)
        compute = "fp64" if double else "fp32"
        constants = {
            "NESTED": nested, "ONE_RUN": one_run, "ONE_READ": depth <= block_d, "BLOCK_P": block_p, "BLOCK_K": BLOCK_K,
            "BLOCK_D": block_d, "COMPUTE": tl.float64 if double else tl.float32,
            "PRECISION": "ieee" if double else "tf32x3", "OFFSET": tl.int64 if wide else tl.int32,
        }  # fmt: skip
        if one_run:
            constants["stride_column"] = 1
        kinds = dict.fromkeys(names, "i32")
        kinds |= {"features": f"*{element}", "thinnest": "*i32", "weights": f"*{compute}", "partial": f"*{compute}"}
        kinds |= dict.fromkeys(constants, "constexpr")
        attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned}
        source = ASTSource(fn=weighted_sums_kernel, signature=kinds, constexprs=constants, attrs=attributes)
        kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
        what = f"sm_{capability} {element} D={depth} nested={nested} one_run={one_run} wide={wide}"
        # Where 16 bytes a thread are is cheaper than a smaller tile: sm_80, nested, 16-bit features.
        assert stack_bytes(kernel.asm["cubin"]) <= 16, f"{what} spills registers"

    for capability in (80, 90, 100):
        compile_for(capability, "fp32", 256)
        compile_for(capability, "bf16", 256, nested=True)
    compile_for(90, "fp16", 128, one_run=False)
    compile_for(90, "fp32", 512, nested=True, wide=True)
    compile_for(80, "fp64", 256)


def stack_bytes(cubin: bytes) -> int:
    """What a thread keeps in memory for want of registers; 0 too where triton brings no cuobjdump."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        return 0
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return max(int(word.removeprefix("STACK:")) for word in usage.split() if word.startswith("STACK:"))
