"""The Triton kernels of entropy_weighted_cross_entropy where there is no GPU: run by Triton's interpreter (in a process
of its own, for it must be chosen before triton is imported), and compiled for three GPU generations."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgseg.ops import entropy_weighted_cross_entropy as op
from tests.ops.harness import DEVICE, deterministic_and_poisoned, generator, layouts

triton = pytest.importorskip("triton")
from dgseg.ops import _triton as shared  # noqa: E402
from dgseg.ops.entropy_weighted_cross_entropy import triton as kernels  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter")
by_compiler = pytest.mark.skipif(INTERPRETED, reason="runs outside of the interpreter")

# (N, C, h, w, H, W): why it is here
SHAPES = {
    (1, 1, 1, 1, 1, 1): "one pixel, one class: every size argument is specialised to 1",
    (2, 19, 9, 11, 9, 11): "the classes of Cityscapes: a padded tail tile",
    (2, 3, 17, 40, 17, 40): "several blocks of pixels an image, the last one ragged",
    (1, 70, 3, 5, 3, 5): "three chunks of classes in the backward",
    (1, 5, 4, 3, 9, 7): "upsampled by ratios that are not whole",
    (1, 2, 3, 35, 4, 70): "two blocks of cells, and the column between them",
    (1, 34, 2, 2, 3, 5): "upsampled, two chunks of classes",
    (1, 3, 2, 4, 2, 6): "upsampled along one side only",
    (1, 4, 1, 1, 3, 5): "one logit pixel for all",
}


def inputs(shape, dtype=torch.float64):
    N, C, h, w, H, W = shape
    g = generator(1)
    logits = (torch.randn(N, C, h, w, generator=g, dtype=torch.float64) * 2).to(dtype)
    labels = torch.randint(0, C, (N, H, W), generator=g).to(torch.uint8)
    if N > 1:
        labels[torch.rand(N, H, W, generator=g) < 0.2] = 255
    bands = (torch.rand(N, H, W, generator=g) < 0.5).to(torch.uint8)
    return logits, labels, bands, torch.rand(C, generator=g, dtype=torch.float64) + 0.5


def launch(
    logits, labels, bands, class_weight=None, *, ranks=1, alpha=3.0, weighting=0, threshold=0.0, denominator=0
):  # fmt: skip
    """What the public function does on a GPU: (loss, per_image, band_entropy, gradient)."""
    log_sum_exp, entropy, cross_entropy, moments = kernels.pixels(logits, labels, bands, 255)
    loss, weights, per_image, band_entropy = kernels.loss(
        logits, labels, bands, class_weight, log_sum_exp, entropy, cross_entropy, moments.expand(ranks, 5),
        alpha, weighting, threshold, 1e-6, denominator, 255,
    )  # fmt: skip
    gradient = kernels.backward(torch.ones_like(loss), logits, labels, log_sum_exp, weights, 255)
    return loss, per_image, band_entropy, gradient


def check(actual, logits, labels, bands, class_weight=None, *, tolerance, **options):
    leaf = logits.double().requires_grad_()
    right = op.reference(leaf, labels, bands, class_weight=class_weight, **options)
    (gradient,) = torch.autograd.grad(right.loss, leaf)
    for a, b in zip(actual, (*right, gradient), strict=True):
        torch.testing.assert_close(a.double(), b.detach(), rtol=tolerance, atol=tolerance)


@by_compiler
@pytest.mark.skipif(DEVICE.type != "cpu", reason="test_entropy_weighted_cross_entropy.py runs the kernels on the GPU")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "DGSEG_DEVICE": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@interpreted
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference(shape):
    logits, labels, bands, class_weight = inputs(shape)
    with deterministic_and_poisoned():
        actual = launch(logits, labels, bands, class_weight)
    check(actual, logits, labels, bands, class_weight, tolerance=1e-12)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 19, 3, 7, 3, 7), (2, 3, 2, 3, 5, 6)])
def test_lower_precisions(shape, dtype):
    logits, labels, bands, _ = inputs(shape, dtype)
    *results, gradient = launch(logits, labels, bands)
    assert gradient.dtype == dtype
    assert {r.dtype for r in results} == {torch.float32}
    leaf = logits.double().requires_grad_()
    right = op.reference(leaf, labels, bands)
    (right_gradient,) = torch.autograd.grad(right.loss, leaf)
    for a, b in zip(results, right, strict=True):
        torch.testing.assert_close(a.double(), b.detach(), rtol=3e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), right_gradient, rtol=torch.finfo(dtype).eps * 16, atol=1e-7)


@interpreted
def test_variants():
    shape = (2, 4, 5, 6, 5, 6)
    logits, labels, bands, class_weight = inputs(shape)
    for launched, wanted in [
        ({"weighting": 1, "alpha": 0.3}, {"weighting": "fixed", "alpha": 0.3}),
        ({"weighting": 2, "threshold": 1.1, "alpha": 5.0}, {"weighting": "threshold", "threshold": 1.1, "alpha": 5.0}),
        ({"denominator": 1}, {"denominator": "all"}),
    ]:
        check(launch(logits, labels, bands, **launched), logits, labels, bands, tolerance=1e-12, **wanted)
    check(launch(logits, labels, None), logits, labels, None, tolerance=1e-12)
    # Equal ranks: the same statistics, and world_size over a denominator that is world_size times as large.
    check(launch(logits, labels, bands, ranks=3), logits, labels, bands, tolerance=1e-12)
    void = torch.full_like(labels, 255)
    check(launch(logits, void, bands, class_weight), logits, void, bands, class_weight, tolerance=0)


@interpreted
@pytest.mark.parametrize("shape", [(2, 5, 6, 7, 6, 7), (1, 3, 2, 3, 3, 4)])
def test_layouts(shape):
    logits, labels, bands, _ = inputs(shape)
    for layout in layouts(logits).values():
        actual = launch(layout, labels, bands)
        check(actual, logits, labels, bands, tolerance=1e-12)
        assert actual[-1].stride() == torch.empty_like(layout).stride()
    for layout in layouts(labels).values():
        check(launch(logits, layout, layouts(bands)["window"]), logits, labels, bands, tolerance=1e-12)


@interpreted
def test_long_strips(monkeypatch):
    monkeypatch.setattr(shared, "FILLING", 1)
    logits, labels, bands, _ = inputs((1, 2, 10, 3, 13, 5))
    check(launch(logits, labels, bands), logits, labels, bands, tolerance=1e-12)


@interpreted
@pytest.mark.parametrize("shape", [(1, 3, 4, 5, 4, 5), (1, 3, 2, 2, 3, 3)])
def test_bad_labels_are_ignored(shape):
    logits, labels, bands, class_weight = inputs(shape)
    labels[0, 1, 2] = 255
    wanted = launch(logits, labels, bands, class_weight)
    for value, dtype in [(3, torch.uint8), (-1, torch.int32), (2**32 + 1, torch.int64), (-(2**62), torch.int64)]:
        wrong = labels.to(dtype)
        wrong[0, 1, 2] = value
        for a, b in zip(launch(logits, wrong, bands, class_weight), wanted, strict=True):
            assert torch.equal(a, b)


@interpreted
@pytest.mark.parametrize("shape", [(1, 3, 4, 5, 4, 5), (1, 3, 2, 3, 4, 5)])
def test_extreme_logits(shape):
    logits, labels, bands, _ = inputs(shape)
    poisoned = logits.clone()
    poisoned[0, 1, 0, 0] = torch.nan
    loss, per_image, _, gradient = launch(poisoned, labels, bands)
    assert loss.isnan()
    assert per_image.isnan().all()
    assert gradient.isnan().any()
    loss, _, _, gradient = launch(poisoned, torch.full_like(labels, 255), bands)
    assert loss == 0
    assert not gradient.any()
    if shape[2:4] == shape[4:]:
        masked = logits.clone()
        masked[:, 2] = -torch.inf
        labels[:] = 0
        check(launch(masked, labels, bands), masked, labels, bands, tolerance=1e-12)
        labels[0, 0, 0] = 2
        assert launch(masked, labels, bands)[0] == torch.inf


@interpreted
@pytest.mark.parametrize("shape", [(0, 3, 4, 4, 4, 4), (0, 3, 2, 2, 4, 4), (2, 3, 0, 4, 0, 4)])
def test_empty(shape):
    logits, labels, bands, _ = inputs(shape)
    loss, per_image, band_entropy, gradient = launch(logits, labels, bands)
    assert (loss, band_entropy) == (0, 0)
    assert not per_image.any()
    assert gradient.shape == logits.shape


POINTERS = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16",
    torch.uint8: "*u8", torch.int64: "*i64",
}  # fmt: skip
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def source(kernel, args, constants):
    """What triton.jit would compile for a call with these arguments."""
    from triton.compiler import ASTSource

    signature, values, attributes = dict.fromkeys(constants, "constexpr"), dict(constants), {}
    for position, (parameter, value) in enumerate(zip(kernel.params, args, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            attributes[(position,)] = [["tt.divisibility", 16]]
        elif parameter.annotation_type:
            signature[parameter.name] = parameter.annotation_type
        elif value == 1 and not parameter.do_not_specialize:
            signature[parameter.name], values[parameter.name] = "constexpr", 1
        else:
            signature[parameter.name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(position,)] = [["tt.divisibility", 16]]
    signature = {name: signature[name] for name in kernel.arg_names}
    return ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in values.items()}, attributes)


@by_compiler
@pytest.mark.parametrize(
    ("capability", "dtype", "channels_last"),
    [
        (80, torch.float32, False),
        (90, torch.float32, False),
        (100, torch.float32, False),
        (90, torch.bfloat16, True),
        (90, torch.float64, False),
    ],
)
@pytest.mark.parametrize("size", [512, 128])
def test_compiles_without_spills(monkeypatch, tmp_path, size, capability, dtype, channels_last):
    from triton.backends.compiler import GPUTarget

    calls = []
    monkeypatch.setattr(kernels, "launch", lambda *call, warps=4, **constants: calls.append((*call, warps, constants)))
    logits = torch.empty(2, 19, size, size, dtype=dtype, device="meta")
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    labels = torch.empty(2, 512, 512, dtype=torch.uint8, device="meta")
    launch(logits, labels, labels, torch.empty(19, device="meta"))
    assert len(calls) == 5
    for kernel, _programs, *args, warps, constants in calls:
        compiled = triton.compile(
            source(kernel, args, constants), target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
        )
        if not CUOBJDUMP.exists():
            continue
        cubin = tmp_path / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = subprocess.run([CUOBJDUMP, "--dump-resource-usage", cubin], capture_output=True, text=True).stdout
        # A double-precision division may be a call, with a frame of 8 bytes; spilled registers take more.
        stack = int(re.search(r"STACK:(\d+)", usage)[1])
        assert stack <= 8 or dtype == torch.float64, f"{kernel.__name__} keeps registers in memory: {usage}"
