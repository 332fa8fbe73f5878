"""dgseg.ops.entropy_weighted_cross_entropy: against its float64 reference, and the reference against the formulas."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.ops import backends
from dgseg.ops import entropy_weighted_cross_entropy as op
from tests.ops.harness import (
    DEVICE,
    LABEL_DTYPES,
    compiled,
    deterministic_and_poisoned,
    generator,
    label_map,
    layouts,
    normal,
    opcheck,
    run_ranks,
)

# (N, C, h, w, H, W): why it is here
SHAPES = {
    (1, 2, 1, 1, 1, 1): "one pixel",
    (1, 1, 3, 5, 3, 5): "one class: no entropy, no gradient",
    (2, 19, 16, 16, 16, 16): "the classes of Cityscapes at label size, whole vectors",
    (2, 19, 13, 37, 13, 37): "ragged rows at label size",
    (1, 33, 5, 9, 5, 9): "one class more than two vectors hold",
    (1, 150, 7, 6, 7, 6): "many classes",
    (3, 4, 1, 700, 1, 700): "a single row, several blocks long",
    (2, 19, 8, 8, 32, 32): "4x, as the models give it",
    (1, 19, 5, 40, 40, 320): "8x, cells in several blocks",
    (2, 7, 5, 3, 13, 11): "ratios that are not whole, and differ",
    (1, 3, 6, 9, 7, 10): "barely larger",
    (1, 5, 4, 6, 4, 13): "upsampled along one side only",
    (1, 5, 4, 6, 9, 6): "and along the other",
    (2, 3, 1, 1, 9, 5): "one logit pixel for all",
    (1, 37, 3, 4, 11, 17): "more than 32 classes, upsampled",
}
# weighting and its arguments
VARIANTS = {
    "entropy": {},
    "entropy all": {"alpha": 1.7, "eps": 1e-3, "denominator": "all"},
    "fixed": {"weighting": "fixed", "alpha": 0.3},
    "threshold": {"weighting": "threshold", "threshold": 1.0, "alpha": 5.0},
}


def inputs(shape, dtype=torch.float64, *, ignored=0.1, seed=0, label_dtype=torch.uint8):
    N, C, h, w, H, W = shape
    logits = normal(N, C, h, w, dtype=dtype, seed=seed, scale=2.0)
    labels = label_map(N, H, W, classes=C, ignored=ignored, block=3, seed=seed).to(label_dtype)
    bands = (torch.rand(N, H, W, generator=generator(seed)) < 0.4).to(torch.uint8).to(DEVICE)
    class_weight = (torch.rand(C, generator=generator(seed), dtype=torch.float64) + 0.5).to(DEVICE)
    return logits, labels, bands, class_weight


def run(function, logits, *args, **kwargs):
    leaf = logits.detach().requires_grad_()
    result = function(leaf, *args, **kwargs)
    (gradient,) = torch.autograd.grad(result.loss, leaf)
    return result, gradient


def expected(logits, labels, bands, class_weight=None, **kwargs):
    """The reference in float64, whatever the dtype of the logits."""
    if class_weight is not None:
        kwargs["class_weight"] = class_weight.double()
    return run(op.reference, logits.double(), labels, bands, **kwargs)


def check(actual, wanted, tolerance, what=""):
    (result, gradient), (right, right_gradient) = actual, wanted
    for name in ("loss", "per_image", "band_entropy"):
        a, b = getattr(result, name).double(), getattr(right, name).detach()
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), f"{what}: {name} is {a}, not {b}"
    # Relative to the largest gradient: single entries are differences of nearly equal numbers.
    error = (gradient.double() - right_gradient).abs().max() / right_gradient.abs().max().clamp(min=1e-30)
    assert right_gradient.abs().max() < 1e-12 or error <= 5 * tolerance, f"{what} gradient off by {error}"


def by_formula(
    logits, labels, bands, class_weight, alpha=3.0, weighting="entropy", threshold=None, eps=1e-6, denominator="valid"
):
    """Pixel by pixel, with Python's floats: (loss, per_image, band_entropy)."""
    N, C, h, w = logits.shape
    _, H, W = labels.shape

    def taps(at, small, large):
        source = max((at + 0.5) * small / large - 0.5, 0.0)
        low = min(int(source), small - 1)
        return low, min(low + 1, small - 1), source - low

    pixels, band_entropies, per_image = [], [], []
    for n in range(N):
        losses = []
        for y in range(H):
            for x in range(W):
                label = int(labels[n, y, x])
                if label == 255:
                    continue
                y0, y1, fy = taps(y, h, H)
                x0, x1, fx = taps(x, w, W)
                at = logits[n].tolist()
                z = [
                    (1 - fy) * ((1 - fx) * at[c][y0][x0] + fx * at[c][y0][x1])
                    + fy * ((1 - fx) * at[c][y1][x0] + fx * at[c][y1][x1])
                    for c in range(C)
                ]
                total = sum(math.exp(v) for v in z)
                p = [math.exp(v) / total for v in z]
                entropy = -sum(v * math.log(v) for v in p)
                ce = -math.log(p[label])
                in_band = bands is not None and int(bands[n, y, x]) > 0
                pixels.append((label, ce, entropy, in_band))
                losses.append(ce)
                if in_band:
                    band_entropies.append(entropy)
        per_image.append(sum(losses) / len(losses) if losses else 0.0)
    mean = sum(band_entropies) / len(band_entropies) if band_entropies else 0.0
    deviation = math.sqrt(sum((e - mean) ** 2 for e in band_entropies) / max(len(band_entropies), 1))
    loss = 0.0
    for label, ce, entropy, in_band in pixels:
        weight = 1.0
        if in_band and weighting == "entropy":
            weight = 1 + alpha / (1 + math.exp(-(entropy - mean) / (deviation + eps)))
        elif in_band and (weighting == "fixed" or ce > threshold):
            weight = alpha
        loss += weight * ce * (1.0 if class_weight is None else float(class_weight[label]))
    count = labels.numel() if denominator == "all" else len(pixels)
    return loss / max(count, 1), per_image, mean


@settings(max_examples=60, deadline=None)
@given(
    N=st.integers(1, 2),
    C=st.integers(1, 5),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    grow=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    variant=st.sampled_from(list(VARIANTS)),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_reference_and_kernel_equal_the_formulas(N, C, size, grow, variant, ignored, weighted, seed):
    shape = (N, C, *size, size[0] + grow[0], size[1] + grow[1])
    logits, labels, bands, class_weight = inputs(shape, ignored=ignored, seed=seed)
    options = {"class_weight": class_weight if weighted else None, **VARIANTS[variant]}
    loss, per_image, band_entropy = by_formula(logits.cpu(), labels.cpu(), bands.cpu(), **options)
    for function in (op.reference, op):
        result = function(logits, labels, bands, **options)
        torch.testing.assert_close(result.loss.cpu(), torch.tensor(loss, dtype=torch.float64), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result.per_image.cpu(), torch.tensor(per_image, dtype=torch.float64))
        torch.testing.assert_close(result.band_entropy.cpu(), torch.tensor(band_entropy, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference_on_every_shape(shape, dtype):
    logits, labels, bands, class_weight = inputs(shape, dtype)
    for name, options in VARIANTS.items():
        for weight in (None, class_weight.to(dtype)):
            with deterministic_and_poisoned():
                actual = run(op, logits, labels, bands, class_weight=weight, **options)
            wanted = expected(logits, labels, bands, weight, **options)
            check(actual, wanted, 1e-12 if dtype == torch.float64 else 3e-6, f"{shape} {name}")
            result, gradient = actual
            assert gradient.dtype == dtype
            assert {t.dtype for t in result} == {dtype}
            assert not result.per_image.requires_grad
            assert not result.band_entropy.requires_grad


@pytest.mark.parametrize("shape", [(2, 19, 13, 37, 13, 37), (2, 7, 5, 3, 13, 11)])
def test_without_bands_it_is_cross_entropy(shape):
    logits, labels, _, class_weight = inputs(shape)
    leaf = logits.detach().requires_grad_()
    full = torch.nn.functional.interpolate(leaf, size=labels.shape[1:], mode="bilinear", align_corners=False)
    stock = torch.nn.functional.cross_entropy(full, labels.long(), class_weight, ignore_index=255, reduction="none")
    loss = stock.sum() / (labels != 255).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    with deterministic_and_poisoned():
        result, ours = run(op, logits, labels, None, class_weight=class_weight)
    torch.testing.assert_close(result.loss, loss.detach())
    torch.testing.assert_close(ours, gradient)
    assert result.band_entropy == 0


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 7, 19, 255])
def test_any_ignore_index_and_label_dtype(label_dtype, ignore_index):
    for shape in [(2, 19, 9, 20, 9, 20), (2, 19, 3, 5, 9, 20)]:
        logits, labels, bands, _ = inputs(shape, torch.float32, ignored=0.0, label_dtype=label_dtype)
        if label_dtype != torch.uint8 or ignore_index >= 0:
            labels[:, 2:5, 3:15] = ignore_index
        actual = run(op, logits, labels, bands, ignore_index=ignore_index)
        check(actual, expected(logits, labels, bands, ignore_index=ignore_index), 3e-6)


def test_layouts():
    for shape in [(2, 19, 11, 40, 11, 40), (2, 19, 6, 10, 17, 40)]:
        logits, labels, bands, _ = inputs(shape, torch.float32)
        wanted = expected(logits, labels, bands)
        for name, layout in layouts(logits).items():
            leaf = layout.detach().requires_grad_()
            with deterministic_and_poisoned():
                result = op(leaf, labels, bands)
                (gradient,) = torch.autograd.grad(result.loss, leaf)
            check((result, gradient), wanted, 3e-6, name)
            assert gradient.stride() == torch.empty_like(layout).stride(), name
        for name, layout in layouts(labels).items():
            check(run(op, logits, layout, bands), wanted, 3e-6, name)
        for name, layout in layouts(bands).items():
            check(run(op, logits, labels, layout), wanted, 3e-6, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    for shape in [(2, 19, 16, 33, 16, 33), (2, 19, 8, 8, 32, 32), (1, 5, 4, 6, 9, 13)]:
        logits, labels, bands, _ = inputs(shape, dtype)
        for layout in layouts(logits).values():
            leaf = layout.detach().requires_grad_()
            with deterministic_and_poisoned():
                result = op(leaf, labels, bands)
                (gradient,) = torch.autograd.grad(result.loss, leaf)
            right, right_gradient = expected(logits, labels, bands)
            assert result.loss.dtype == torch.float32
            torch.testing.assert_close(result.loss.double(), right.loss, rtol=3e-6, atol=0)
            assert gradient.dtype == dtype
            # One rounding at the end, and float16's smallest number.
            torch.testing.assert_close(gradient.double(), right_gradient, rtol=2**-7, atol=1e-7)


def test_autocast_changes_nothing():
    logits, labels, bands, _ = inputs((2, 19, 8, 8, 16, 16), torch.bfloat16)
    plain, gradient = run(op, logits, labels, bands)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        result, under_autocast = run(op, logits, labels, bands)
    assert torch.equal(result.loss, plain.loss)
    assert torch.equal(gradient, under_autocast)


@pytest.mark.parametrize("shape", [(2, 5, 6, 7, 6, 7), (2, 5, 3, 4, 6, 7)])
def test_nothing_valid_and_nothing_in_the_band(shape):
    logits, labels, bands, _ = inputs(shape, torch.float32)
    void = torch.full_like(labels, 255)
    for denominator in ("valid", "all"):
        result, gradient = run(op, logits, void, bands, denominator=denominator)
        assert result.loss == 0
        assert result.band_entropy == 0
        assert not result.per_image.any()
        assert not gradient.any()
    half = labels.clone()
    half[0] = 255
    result, gradient = run(op, logits, half, bands)
    check((result, gradient), expected(logits, half, bands), 3e-6)
    assert result.per_image[0] == 0
    assert not gradient[0].any()
    empty_band = run(op, logits, labels, torch.zeros_like(bands))
    check(empty_band, expected(logits, labels, None), 3e-6)
    one = torch.zeros_like(bands)
    one[0, 2, 2], labels[0, 2, 2] = 1, 3
    check(run(op, logits, labels, one), expected(logits, labels, one), 1e-4)  # 0 / (0 + eps): rounding is magnified
    assert run(op, logits, labels, one)[0].loss.isfinite()


def test_extreme_logits():
    logits, labels, bands, _ = inputs((1, 5, 6, 8, 6, 8))
    labels[:] = 1
    masked = logits.clone()
    masked[:, 3] = -math.inf
    result, gradient = run(op, masked, labels, bands)
    check((result, gradient), expected(masked, labels, bands), 1e-12)
    assert result.loss.isfinite()
    assert result.band_entropy.isfinite()
    assert gradient[:, 3].abs().max() < 1e-30  # vector exponentials may stop at the smallest normal number
    check(run(op, logits * 500, labels, bands), expected(logits * 500, labels, bands), 1e-10)
    masked[:, 1, 2, 2] = -math.inf
    assert op(masked, labels, bands).loss == math.inf


@pytest.mark.parametrize("shape", [(2, 5, 6, 7, 6, 7), (2, 5, 3, 4, 6, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_nan_shows_in_the_loss_unless_it_is_ignored(shape, dtype):
    logits, labels, bands, _ = inputs(shape, dtype, ignored=0.0)
    logits[1, 2, 1, 1] = math.nan
    for in_band in (0, 1):
        result, gradient = run(op, logits, labels, torch.full_like(bands, in_band))
        assert result.loss.isnan()
        assert result.per_image.isnan().tolist() == [False, True]
        assert gradient.isnan().any()
    labels[1] = 255
    result, gradient = run(op, logits, labels, bands)
    assert result.loss.isfinite()
    assert not gradient[1].any()


def test_repeats_and_thread_counts_give_equal_bits():
    threads = torch.get_num_threads()
    for shape in [(3, 19, 40, 130, 40, 130), (3, 19, 17, 30, 66, 130)]:
        logits, labels, bands, class_weight = inputs(shape, torch.float32)
        results = []
        try:
            for count in (1, 2, 3, 1):
                torch.set_num_threads(count)
                with deterministic_and_poisoned():
                    result, gradient = run(op, logits, labels, bands, class_weight=class_weight)
                results.append((*result, gradient))
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="instruction sets are a matter of the CPU")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_other_instruction_sets(isa):
    # The suite itself runs the best variant of this machine; the choice is made once per process.
    names = "equals_reference_on_every_shape or half_precision or extreme"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", names]
    done = subprocess.run(command, env=os.environ | {"DGSEG_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


needs_kernels = pytest.mark.skipif(
    backends(DEVICE)["entropy_weighted_cross_entropy"] == "reference", reason="no compiled operators on this device"
)


@needs_kernels
@pytest.mark.parametrize("shape", [(2, 5, 6, 9, 6, 9), (2, 5, 3, 4, 6, 9)])
def test_opcheck(shape):
    logits, labels, bands, class_weight = inputs(shape, torch.float32)
    ops = torch.ops.dgseg
    class_weight = class_weight.float()
    for layout in layouts(logits).values():
        opcheck("entropy_weighted_ce_pixels", layout, labels, bands, 255)
        log_sum_exp, entropy, cross_entropy, moments = ops.entropy_weighted_ce_pixels(layout, labels, bands, 255)
        maps = (log_sum_exp, entropy, cross_entropy, moments[None])
        tail = (3.0, 0, 0.0, 1e-6, 0, 255)
        opcheck("entropy_weighted_ce_loss", layout.detach().requires_grad_(), labels, bands, class_weight, *maps, *tail)
        loss, weights, _, _ = ops.entropy_weighted_ce_loss(layout, labels, bands, None, *maps, *tail)
        opcheck("entropy_weighted_ce_backward", torch.ones_like(loss), layout, labels, log_sum_exp, weights, 255)
    opcheck("entropy_weighted_ce_pixels", logits, labels, None, 255)
    log_sum_exp, entropy, cross_entropy, moments = ops.entropy_weighted_ce_pixels(logits, labels, None, 255)
    assert entropy.shape == (0,)
    assert moments.tolist() == [labels.numel(), float((labels != 255).sum()), 0.0, 0.0, 0.0]


@needs_kernels
@pytest.mark.parametrize("shape", [(0, 5, 4, 4, 4, 4), (0, 5, 2, 2, 4, 4), (2, 5, 0, 4, 0, 4)])
def test_operators_take_empty_tensors(shape):
    # The public function refuses them; a compiler that probes the operators must not crash on them.
    logits, labels, bands, _ = inputs(shape, torch.float32)
    ops = torch.ops.dgseg
    log_sum_exp, entropy, cross_entropy, moments = ops.entropy_weighted_ce_pixels(logits, labels, bands, 255)
    assert moments.tolist() == [0.0] * 5
    maps = (log_sum_exp, entropy, cross_entropy, moments[None])
    loss, weights, per_image, band_entropy = ops.entropy_weighted_ce_loss(
        logits, labels, bands, None, *maps, 3.0, 0, 0.0, 1e-6, 0, 255
    )
    assert (loss, band_entropy) == (0, 0)
    assert not per_image.any()
    gradient = ops.entropy_weighted_ce_backward(torch.ones_like(loss), logits, labels, log_sum_exp, weights, 255)
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("shape", [(2, 3, 3, 4, 3, 4), (1, 3, 2, 3, 5, 7)])
@pytest.mark.parametrize("variant", [{"weighting": "fixed"}, {"denominator": "all"}])
def test_gradcheck(shape, variant):
    logits, labels, bands, class_weight = inputs(shape)
    # Entropy weights are constants to autograd, but not to finite differences: there the band stays empty.
    bands = bands if "weighting" in variant else torch.zeros_like(bands)
    function = lambda z: op(z, labels, bands, class_weight=class_weight, **variant).loss  # noqa: E731
    torch.autograd.gradcheck(function, (logits.requires_grad_(),))


def test_gradient_is_scaled_by_what_comes_in_and_has_no_gradient_itself():
    logits, labels, bands, _ = inputs((2, 5, 3, 4, 6, 9))
    _, gradient = run(op, logits, labels, bands)
    leaf = logits.detach().requires_grad_()
    (scaled,) = torch.autograd.grad(3 * op(leaf, labels, bands).loss, leaf)
    torch.testing.assert_close(scaled, 3 * gradient)
    assert not op(logits.detach(), labels, bands).loss.requires_grad


@needs_kernels
def test_a_second_derivative_is_refused():
    logits, labels, bands, _ = inputs((1, 3, 4, 4, 4, 4))
    logits.requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(op(logits, labels, bands).loss, logits, create_graph=True)


@needs_kernels
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend):
    logits, labels, bands, class_weight = inputs((2, 19, 8, 9, 32, 33), torch.float32)
    function = compiled(lambda z: op(2 * z, labels, bands, class_weight=class_weight), backend)
    eager = run(lambda z: op(2 * z, labels, bands, class_weight=class_weight), logits)
    result, gradient = run(function, logits)
    for a, b in zip(eager[0], result, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, eager[1], rtol=1e-5, atol=1e-8)


RANK_CASES = [
    (shape, variant, void)
    for shape in [(4, 5, 6, 9, 6, 9), (4, 5, 3, 4, 7, 9)]
    for variant in VARIANTS
    for void in (False, True)
]


def _case(shape, variant, void, dtype):
    logits, labels, bands, class_weight = inputs(shape, dtype)
    if void:
        labels[2:] = 255  # all that rank 1 has
    else:
        labels[0, :4] = 255  # ranks of unequal weight
    return logits, labels, bands, {"class_weight": class_weight.to(dtype), **VARIANTS[variant]}


def _on_rank(rank, group):
    found = []
    mine = slice(2 * rank, 2 * rank + 2)
    for case in RANK_CASES:
        for function, dtype in ((op.reference, torch.float64), (op, torch.float64), (op, torch.float32)):
            logits, labels, bands, options = _case(*case, dtype)
            result, gradient = run(function, logits[mine], labels[mine], bands[mine], group=group, **options)
            found.append([*result, gradient])
    return found


@pytest.mark.skipif(DEVICE.type != "cpu", reason="gloo ranks share the CPU")
def test_two_ranks_equal_one_process_on_the_whole_batch():
    ranks = zip(*run_ranks(_on_rank), strict=True)
    for case in RANK_CASES:
        for function, dtype in ((op.reference, torch.float64), (op, torch.float64), (op, torch.float32)):
            tolerance = 1e-12 if dtype == torch.float64 else 1e-6
            logits, labels, bands, options = _case(*case, dtype)
            result, gradient = run(function, logits, labels, bands, **options)
            first, second = next(ranks)
            for together, alone in [
                ((first[0] + second[0]) / 2, result.loss.detach()),
                (torch.cat([first[1], second[1]]), result.per_image),
                (first[2], result.band_entropy),
                (second[2], result.band_entropy),
                (torch.cat([first[3], second[3]]) / 2, gradient),
            ]:
                torch.testing.assert_close(together, alone, rtol=tolerance, atol=tolerance)


def test_forced_reference(monkeypatch):
    monkeypatch.setenv("DGSEG_BACKEND", "reference")
    assert backends(DEVICE)["entropy_weighted_cross_entropy"] == "reference"
    logits, labels, bands, _ = inputs((1, 3, 4, 4, 8, 8))
    assert torch.equal(op(logits, labels, bands).loss, op.reference(logits, labels, bands).loss)


def _arguments(**changed):
    arguments = {
        "logits": torch.zeros(2, 3, 4, 4),
        "labels": torch.zeros(2, 8, 8, dtype=torch.uint8),
        "bands": torch.zeros(2, 8, 8, dtype=torch.uint8),
    }
    return arguments | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": torch.zeros(3, 4, 4)}, "logits must have 4 dimensions"),
        ({"logits": torch.zeros(2, 3, 4, 4, dtype=torch.int32)}, "logits must be float32, float64, float16, bfloat16"),
        ({"logits": [[0.0]]}, "logits must be a tensor"),
        ({"labels": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)}, "labels must have 3 dimensions"),
        ({"labels": torch.zeros(2, 8, 8)}, "labels must be uint8, int32, int64"),
        ({"labels": torch.zeros(3, 8, 8, dtype=torch.uint8)}, "same batch"),
        ({"labels": torch.zeros(2, 3, 8, dtype=torch.uint8)}, "logits of size 4x4 are larger than labels of size 3x8"),
        ({"labels": torch.zeros(2, 8, 3, dtype=torch.uint8)}, "larger than labels"),
        ({"logits": torch.zeros(0, 3, 4, 4), "labels": torch.zeros(0, 8, 8, dtype=torch.uint8)}, "skip empty batches"),
        ({"logits": torch.zeros(2, 0, 4, 4)}, "no pixel to learn from"),
        ({"bands": torch.zeros(2, 4, 4, dtype=torch.uint8)}, r"bands must have shape \[2, 8, 8\]"),
        ({"bands": torch.zeros(2, 8, 8)}, "bands must be uint8"),
        ({"labels": torch.zeros(2, 8, 8, dtype=torch.uint8, device="meta")}, "must be on one device"),
        ({"class_weight": torch.ones(4)}, r"class_weight must have shape \[3\]"),
        ({"class_weight": torch.ones(3, dtype=torch.int64)}, "class_weight must be float"),
        ({"class_weight": torch.ones(3, requires_grad=True)}, "detach"),
        ({"weighting": "loss"}, "weighting must be one of entropy, fixed, threshold"),
        ({"denominator": "mean"}, "denominator must be one of valid, all"),
        ({"alpha": -1.0}, "alpha must be finite and at least 0"),
        ({"alpha": math.nan}, "alpha must be finite"),
        ({"eps": 0.0}, "eps must be finite and above 0"),
        ({"threshold": 0.5}, "threshold belongs to"),
        ({"weighting": "threshold"}, "give both or neither"),
        ({"weighting": "threshold", "threshold": math.nan}, "threshold must be a cross-entropy"),
    ],
)
def test_bad_input_says_what_to_change(changed, message):
    with pytest.raises(ValueError, match=message):
        op(**_arguments(**changed))


@pytest.mark.parametrize("value", [3, 19, 200])
@pytest.mark.parametrize("size", [8, 4])
@pytest.mark.parametrize("forced", [False, True])
def test_a_label_outside_the_classes_is_named(monkeypatch, forced, size, value):
    # On a GPU reading labels would make the host wait: DGSEG_DEBUG=1 asks for it.
    monkeypatch.setenv("DGSEG_DEBUG", "1")
    if forced:
        monkeypatch.setenv("DGSEG_BACKEND", "reference")
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8, device=DEVICE)
    labels[1, 5, 6] = value
    message = f"labels hold {value} at batch index 1; valid: 0 to 2, or 255"
    with pytest.raises((ValueError, RuntimeError), match=message):
        op(torch.zeros(2, 3, size, size, device=DEVICE), labels, None)


@pytest.mark.parametrize("value", [-1, -(2**40), 2**32 + 1])
def test_negative_and_huge_labels_are_named(monkeypatch, value):
    monkeypatch.setenv("DGSEG_DEBUG", "1")
    labels = torch.zeros(3, 8, 8, dtype=torch.int64, device=DEVICE)
    labels[2, 0, 0] = value
    with pytest.raises((ValueError, RuntimeError), match=f"labels hold {value} at batch index 2"):
        op(torch.zeros(3, 3, 8, 8, device=DEVICE), labels, None)


def test_compiles_while_alpha_changes():
    labels, logits = label_map(1, 9, 11, classes=4), normal(1, 4, 9, 11)
    bands = torch.ones_like(labels)
    function = compiled(lambda alpha: op(logits, labels, bands, alpha=alpha).loss)
    for alpha in (1.0, 2.0, 3.5, 4.0):
        expected = op(logits, labels, bands, alpha=alpha).loss
        torch.testing.assert_close(function(alpha), expected)


def test_nan_shows_under_a_weight_of_zero():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8, device=DEVICE)
    labels[:, 2:] = 1
    logits = normal(1, 3, 4, 4)
    logits[0, :, 0, 0] = torch.nan
    weight = torch.tensor([0.0, 1.0, 1.0], device=DEVICE)
    for function in (op, op.reference):
        assert function(logits, labels, None, class_weight=weight).loss.isnan()
        assert function(logits, labels, torch.ones_like(labels), weighting="fixed", alpha=0.0).loss.isnan()


def test_more_classes_than_a_byte_holds():
    labels, logits = label_map(1, 9, 11, classes=256, ignored=0.0), normal(1, 300, 9, 11)
    found = op(logits, labels, None, ignore_index=-1).loss
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, labels.long()))
    reference = op.reference(logits, labels, None, ignore_index=-1).loss
    torch.testing.assert_close(reference, found)
