"""The Triton kernels of focal_dice where there is no GPU: run by Triton's interpreter (in a process of its own, for it
must be chosen before triton is imported), and compiled for three GPU generations."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgseg.ops import across_ranks
from dgseg.ops import focal_dice as op
from dgseg.ops.focal_dice.reference import losses_of
from tests.ops.harness import DEVICE, deterministic_and_poisoned, generator, layouts

triton = pytest.importorskip("triton")
from dgseg.ops import _triton as shared  # noqa: E402
from dgseg.ops.focal_dice import triton as kernels  # noqa: E402
from tests.ops.test_entropy_weighted_cross_entropy_triton import source  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter")
by_compiler = pytest.mark.skipif(INTERPRETED, reason="runs outside of the interpreter")

# (N, C, h, w, H, W): why it is here
SHAPES = {
    (1, 1, 1, 1, 1, 1): "one pixel, one class: every size argument is specialised to 1",
    (2, 19, 9, 11, 9, 11): "the classes of Cityscapes: a padded tail tile",
    (2, 3, 17, 40, 17, 40): "several blocks of pixels an image, the last one ragged",
    (1, 70, 3, 5, 3, 5): "more classes than a sum over pixels has",
    (1, 5, 4, 3, 9, 7): "upsampled by ratios that are not whole",
    (1, 2, 3, 35, 4, 70): "two blocks of cells, and the column between them",
    (1, 34, 2, 2, 3, 5): "upsampled, more than 32 classes",
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
    return logits, labels, torch.rand(C, generator=g, dtype=torch.float64) + 0.5


def mixture(found):
    return found.focal + 3 * found.dice


def launch(logits, labels, class_weight=None, *, gamma=1.0, smooth=1.0):
    """What the public function does on a GPU: (focal, dice, gradient of their mixture)."""
    sums, log_sum_exp = kernels.sums(logits, labels, gamma, 255)
    found = losses_of(sums.requires_grad_(), class_weight, smooth, None, log_sum_exp.dtype)
    (grad_sums,) = torch.autograd.grad(mixture(found), sums)
    gradient = kernels.backward(grad_sums, logits, labels, log_sum_exp, gamma, 255)
    return found.focal.detach(), found.dice.detach(), gradient


def check(actual, logits, labels, class_weight=None, *, tolerance, gradient_tolerance=None, **options):
    leaf = logits.double().requires_grad_()
    right = op.reference(leaf, labels, class_weight=class_weight, **options)
    (gradient,) = torch.autograd.grad(mixture(right), leaf)
    for a, b in zip(actual[:2], right, strict=True):
        torch.testing.assert_close(a.double(), b.detach(), rtol=tolerance, atol=tolerance)
    rtol, atol = gradient_tolerance or (tolerance, tolerance)
    torch.testing.assert_close(actual[2].double(), gradient, rtol=rtol, atol=atol)


@by_compiler
@pytest.mark.skipif(DEVICE.type != "cpu", reason="test_focal_dice.py runs the kernels on the GPU")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "DGSEG_DEVICE": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@interpreted
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference(shape):
    logits, labels, class_weight = inputs(shape)
    with deterministic_and_poisoned():
        actual = launch(logits, labels, class_weight)
    check(actual, logits, labels, class_weight, tolerance=1e-12)


@interpreted
@pytest.mark.parametrize("shape", [(2, 4, 5, 6, 5, 6), (1, 3, 2, 2, 3, 3)])
def test_variants(shape):
    logits, labels, class_weight = inputs(shape)
    for options in ({"gamma": 0.0}, {"gamma": 0.5, "smooth": 0.0}, {"gamma": 2.0, "smooth": 3.5}):
        check(launch(logits, labels, **options), logits, labels, tolerance=1e-12, **options)
    void = torch.full_like(labels, 255)
    assert not any(found.any() for found in launch(logits, void, class_weight))


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 19, 3, 7, 3, 7), (1, 3, 2, 2, 3, 4)])
def test_lower_precisions(shape, dtype):
    logits, labels, _ = inputs(shape, dtype)
    actual = launch(logits, labels)
    assert [found.dtype for found in actual] == [torch.float32, torch.float32, dtype]
    eps = torch.finfo(dtype).eps
    check(actual, logits, labels, tolerance=3e-6, gradient_tolerance=(eps * 16, 3e-7))


@interpreted
@pytest.mark.parametrize("shape", [(2, 5, 6, 7, 6, 7), (1, 2, 1, 2, 2, 3)])
def test_layouts(shape):
    logits, labels, _ = inputs(shape)
    for layout in layouts(logits).values():
        actual = launch(layout, labels)
        check(actual, logits, labels, tolerance=1e-12)
        assert actual[2].stride() == torch.empty_like(layout).stride()
    check(launch(logits, layouts(labels)["window"]), logits, labels, tolerance=1e-12)


@interpreted
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("rows", [0, 1, 2], ids=["unweighted", "one weight", "a weight for each loss"])
def test_losses_and_their_slopes(ranks, rows, monkeypatch):
    g = generator(3)
    everybody = torch.rand(ranks, 4, 5, generator=g, dtype=torch.float64) * 9
    everybody[:, 3, 2] = 0  # a class that the batch lacks
    sums = everybody[0].clone().requires_grad_()
    weight = torch.rand(rows, 5, generator=g).squeeze(0) if rows else None
    monkeypatch.setattr(across_ranks, "gather", lambda row, group: everybody.flatten(1))
    right = losses_of(sums, weight, 0.5, None, torch.float64)
    focal, dice, slopes = kernels.losses(sums.detach(), everybody.flatten(1), weight, 0.5, torch.float64)
    torch.testing.assert_close((focal, dice), (right.focal.detach(), right.dice.detach()), rtol=1e-13, atol=1e-13)
    grads = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-2.0)
    (expected,) = torch.autograd.grad(0.7 * right.focal - 2.0 * right.dice, sums)
    torch.testing.assert_close(kernels.through_losses(*grads, slopes), expected, rtol=1e-13, atol=1e-13)
    nothing = kernels.losses(
        torch.zeros(4, 5, dtype=torch.float64), torch.zeros(1, 20).double(), weight, 0.5, torch.float32
    )
    assert [float(each) for each in nothing[:2]] == [0, 0]


@interpreted
def test_long_strips(monkeypatch):
    monkeypatch.setattr(shared, "FILLING", 1)
    logits, labels, _ = inputs((1, 2, 10, 3, 13, 5))
    check(launch(logits, labels), logits, labels, tolerance=1e-12)


@interpreted
@pytest.mark.parametrize("shape", [(1, 3, 4, 5, 4, 5), (1, 3, 1, 2, 2, 3)])
def test_bad_labels_are_ignored(shape):
    logits, labels, class_weight = inputs(shape)
    labels[0, 1, 2] = 255
    wanted = launch(logits, labels, class_weight)
    for value, dtype in [(3, torch.uint8), (-1, torch.int32), (2**32 + 1, torch.int64), (-(2**62), torch.int64)]:
        wrong = labels.to(dtype)
        wrong[0, 1, 2] = value
        for a, b in zip(launch(logits, wrong, class_weight), wanted, strict=True):
            assert torch.equal(a, b)


@interpreted
@pytest.mark.parametrize("shape", [(1, 3, 4, 5, 4, 5), (1, 3, 1, 2, 3, 4)])
def test_extreme_logits(shape):
    logits, labels, _ = inputs(shape)
    poisoned = logits.clone()
    poisoned[0, 1, 0, 0] = torch.nan
    for gamma in (0.0, 1.0, 2.0):
        focal, dice, gradient = launch(poisoned, labels, gamma=gamma)
        assert focal.isnan()
        assert dice.isnan()
        assert gradient.isnan().any()
    assert not any(found.any() for found in launch(poisoned, torch.full_like(labels, 255)))
    assert all(found.isfinite().all() for found in launch(logits.float() * 500, labels))
    if shape[2:4] == shape[4:]:
        masked = logits.clone()
        masked[:, 2] = -torch.inf
        labels[:] = 0
        check(launch(masked, labels), masked, labels, tolerance=1e-12)


@interpreted
@pytest.mark.parametrize("shape", [(0, 3, 4, 4, 4, 4), (0, 3, 2, 2, 4, 4), (2, 3, 0, 4, 0, 4)])
def test_empty(shape):
    logits, labels, _ = inputs(shape)
    focal, dice, gradient = launch(logits, labels)
    assert (focal, dice) == (0, 0)
    assert gradient.shape == logits.shape


CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


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
    sums, log_sum_exp = kernels.sums(logits, labels, 1.0, 255)
    kernels.backward(sums, logits, labels, log_sum_exp, 1.0, 255)
    assert len(calls) == 2
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
