"""The Triton kernels of prototype_info_nce without a GPU: through the interpreter (test_prototype_info_nce.py starts
this file with TRITON_INTERPRET=1), and compiled for every GPU generation that dgseg names."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dgseg.ops import prototype_info_nce
from dgseg.ops.prototype_info_nce import triton as kernels
from tests.ops.harness import layouts
from tests.ops.test_prototype_info_nce import TOLERANCE, case, loss_and_gradient

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")

# (N, D, h, w, C, G): why it is here
SHAPES = {
    (1, 1, 1, 1, 1, 1): "one of everything",
    (2, 40, 5, 17, 5, 3): "a second, ragged block of pixels and of channels",
    (1, 33, 9, 15, 19, 3): "the real number of prototypes",
    (1, 5, 4, 5, 50, 3): "more than 128 prototypes: fewer pixels in a program",
}


def assert_equals_reference(features, labels, bands, prototypes, weights, seen, nested):
    exact = (labels.clamp(max=prototypes.shape[0] - 1), bands, prototypes.double(), weights.double())
    expected, expected_gradient = loss_and_gradient(
        prototype_info_nce.reference, features.double(), *exact, seen=seen, nested=nested
    )
    arguments = (features, labels, bands, prototypes, weights, seen)
    loss_sum, count, log_sum_exp = kernels.forward(*arguments, 0.07, nested)
    terms = count.clamp(min=1)
    gradient = kernels.backward(1000 / terms.to(loss_sum.dtype), *arguments, log_sum_exp, 0.07, nested)
    assert gradient.stride() == torch.empty_like(features).stride()
    tolerance = 1e-12 if features.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(loss_sum.double() / terms, expected, rtol=tolerance, atol=tolerance)
    unit = 0.07 * features.double().norm(dim=1, keepdim=True) * max(1, int((bands > 0).sum())) / 1000
    assert float(((gradient.double() - expected_gradient) * unit).abs().max()) <= TOLERANCE[features.dtype]


@interpreted
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_interpreter_equals_reference(dtype):
    for number, shape in enumerate(SHAPES):
        *arguments, seen = case(shape, dtype=dtype, share=0.5)
        assert_equals_reference(*arguments, seen if number % 2 else None, nested=number in (0, 1))


@interpreted
def test_interpreter_layouts():
    features, labels, bands, *bank, seen = case((2, 6, 7, 11, 3, 2), share=0.5)
    for layout in layouts(features).values():
        assert_equals_reference(layout, labels, bands, *bank, seen, nested=False)
    wide = layouts(labels)["transposed"].long(), layouts(bands)["every_second_column"]
    assert_equals_reference(features, *wide, *bank, seen, nested=True)


@interpreted
def test_interpreter_takes_bad_labels_for_none():
    features, labels, bands, *bank, seen = case((1, 6, 7, 11, 3, 2), share=0.5)
    expected = kernels.forward(features, labels, bands, *bank, seen, 0.07, False)
    none = bands == 0
    for value in (3, -1, 2**40):
        wrong = labels.long().where(~none, value)
        for ours, theirs in zip(
            kernels.forward(features, wrong, bands.where(~none, 1), *bank, seen, 0.07, False), expected, strict=True
        ):
            assert torch.equal(ours, theirs)
    ours = kernels.forward(features, labels.where(~none, 0), bands.where(~none, 3), *bank, seen, 0.07, False)
    assert torch.equal(ours[0], expected[0])


@interpreted
def test_interpreter_zero_vectors_and_nothing_left():
    features, labels, bands, prototypes, weights, _ = case((1, 6, 4, 8, 3, 2), share=1.0)
    features[0, :, 0, 0] = 0
    prototypes[1, 1] = 0
    assert_equals_reference(features, labels, bands, prototypes, weights, None, nested=False)
    none = torch.zeros_like(bands)
    assert_equals_reference(features, labels, none, prototypes, weights, None, nested=False)


def test_too_many_prototypes_are_refused():
    with pytest.raises(ValueError, match="the GPU kernel serves up to"):
        kernels.blocks(kernels.MOST_PROTOTYPES + 1, torch.float32)


TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


def compile_kernel(kernel, capability: int, dtype: torch.dtype, prototypes: int):
    """As a call on aligned NCHW features compiles it."""
    config = kernels.blocks(prototypes, dtype)
    options = {name: config.pop(name) for name in ("num_warps", "num_stages")}
    compute = "*fp64" if dtype == torch.float64 else "*fp32"
    constants = {
        "NESTED": True,
        "SEEN": True,
        "DENSE": True,
        "OUT_DENSE": True,
        "PRECISION": kernels.precision(dtype),
        "stride_column": 1,
        "out_stride_column": 1,
        **config,
    }
    types = {
        **dict.fromkeys(("labels", "bands", "seen"), "*u8"),
        **dict.fromkeys(("features", "gradient"), TYPES[dtype]),
        **dict.fromkeys(("prototypes", "weights"), "*fp32"),
        **dict.fromkeys(("grad", "scale", "losses", "log_sum_exp"), compute),
        "counts": "*i32",
    }
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    values = {(i,): constants[name] for i, name in enumerate(kernel.arg_names) if name in constants}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name not in constants and name not in ("C", "G", "blocks")
    }
    return triton.compile(
        ASTSource(kernel, signature, values, aligned), target=GPUTarget("cuda", capability, 32), options=options
    )


def spilled_bytes(compiled, folder: Path) -> int:
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    (stack,) = re.findall(r"STACK:(\d+)", usage)
    return int(stack)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernel", ["forward_kernel", "backward_kernel"])
def test_compiles_without_spills(kernel, dtype, capability, tmp_path):
    compiled = compile_kernel(getattr(kernels, kernel), capability, dtype, 57)
    assert spilled_bytes(compiled, tmp_path) == 0
    assert compiled.metadata.shared <= 99 * 1024  # two programs per multiprocessor


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize(("dtype", "prototypes"), [(torch.float64, 57), (torch.float32, kernels.MOST_PROTOTYPES)])
def test_compiles_the_extremes(dtype, prototypes):
    for kernel in (kernels.forward_kernel, kernels.backward_kernel):
        assert compile_kernel(kernel, 80, dtype, prototypes).metadata.shared <= 163 * 1024
