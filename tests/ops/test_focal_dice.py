"""dgseg.ops.focal_dice: against its float64 reference, and the reference against the formulas."""

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.ops import backends
from dgseg.ops import focal_dice as op
from dgseg.ops.focal_dice.reference import FocalDice
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
    (1, 1, 3, 5, 3, 5): "one class: certain everywhere, no gradient",
    (2, 19, 16, 16, 16, 16): "the classes of Cityscapes at label size, whole vectors",
    (2, 19, 13, 37, 13, 37): "ragged rows at label size",
    (1, 33, 5, 9, 5, 9): "one class more than two vectors hold",
    (1, 150, 7, 6, 7, 6): "many classes, most of them absent",
    (3, 4, 1, 700, 1, 700): "a single row, several blocks long",
    (1, 3, 70, 130, 70, 130): "sums longer than a lane adds up by itself",
    (2, 19, 8, 8, 32, 32): "4x, as the models give it",
    (1, 19, 5, 40, 40, 320): "8x, cells in several blocks",
    (2, 7, 5, 3, 13, 11): "ratios that are not whole, and differ",
    (1, 3, 6, 9, 7, 10): "barely larger",
    (1, 5, 4, 6, 4, 13): "upsampled along one side only",
    (1, 5, 4, 6, 9, 6): "and along the other",
    (2, 3, 1, 1, 9, 5): "one logit pixel for all",
    (1, 37, 3, 4, 11, 17): "more than 32 classes, upsampled",
}
VARIANTS = {
    "default": {},
    "cross-entropy": {"gamma": 0.0},
    "gamma 2": {"gamma": 2.0, "smooth": 0.0},
    "gamma 0.5": {"gamma": 0.5, "smooth": 3.5},
}


def inputs(shape, dtype=torch.float64, *, ignored=0.1, seed=0, label_dtype=torch.uint8):
    N, C, h, w, H, W = shape
    logits = normal(N, C, h, w, dtype=dtype, seed=seed, scale=2.0)
    labels = label_map(N, H, W, classes=C, ignored=ignored, block=3, seed=seed).to(label_dtype)
    class_weight = torch.rand(C, generator=generator(seed), dtype=torch.float64) + 0.5
    class_weight[0] = 0.0 if C > 1 else 1.0
    return logits, labels, class_weight.to(DEVICE)


def run(function, logits, *args, **kwargs):
    """(focal, dice, gradient of each)"""
    leaf = logits.detach().requires_grad_()
    result = function(leaf, *args, **kwargs)
    (focal,) = torch.autograd.grad(result.focal, leaf, retain_graph=True)
    (dice,) = torch.autograd.grad(result.dice, leaf)
    return result.focal.detach(), result.dice.detach(), focal, dice


def expected(logits, labels, class_weight=None, **kwargs):
    """The reference in float64, whatever the dtype of the logits."""
    if class_weight is not None:
        kwargs["class_weight"] = class_weight.double()
    return run(op.reference, logits.double(), labels, **kwargs)


def check(actual, wanted, tolerance, what=""):
    for name, a, b in zip(("focal", "dice"), actual[:2], wanted[:2], strict=True):
        assert torch.allclose(a.double(), b, rtol=tolerance, atol=tolerance), f"{what}: {name} is {a}, not {b}"
    for name, a, b in zip(("focal", "dice"), actual[2:], wanted[2:], strict=True):
        # Relative to the largest gradient: single entries are differences of nearly equal numbers.
        error = (a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30)
        assert b.abs().max() < 1e-12 or error <= 5 * tolerance, f"{what}: gradient of {name} off by {error}"


def by_formula(logits, labels, class_weight, gamma=1.0, smooth=1.0):
    """Pixel by pixel, with Python's floats: (focal, dice)."""
    N, C, h, w = logits.shape
    _, H, W = labels.shape

    def taps(at, small, large):
        source = max((at + 0.5) * small / large - 0.5, 0.0)
        low = min(int(source), small - 1)
        return low, min(low + 1, small - 1), source - low

    weight = [1.0] * C if class_weight is None else class_weight.tolist()
    focal, count = 0.0, 0
    intersection, probability, pixels = [0.0] * C, [0.0] * C, [0] * C
    for n in range(N):
        at = logits[n].tolist()
        for y in range(H):
            for x in range(W):
                label = int(labels[n, y, x])
                if label == 255:
                    continue
                y0, y1, fy = taps(y, h, H)
                x0, x1, fx = taps(x, w, W)
                z = [
                    (1 - fy) * ((1 - fx) * at[c][y0][x0] + fx * at[c][y0][x1])
                    + fy * ((1 - fx) * at[c][y1][x0] + fx * at[c][y1][x1])
                    for c in range(C)
                ]
                total = sum(math.exp(v) for v in z)
                p = [math.exp(v) / total for v in z]
                focal += weight[label] * (1 - p[label]) ** gamma * -math.log(p[label])
                count += 1
                intersection[label] += p[label]
                pixels[label] += 1
                for c in range(C):
                    probability[c] += p[c]
    dice, share = 0.0, 0.0
    for c in range(C):
        if pixels[c]:
            share += weight[c]
            overlap = (2 * intersection[c] + smooth) / (probability[c] + pixels[c] + smooth)
            dice += weight[c] * (1 - overlap)
    return focal / max(count, 1), dice / share if share else 0.0


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
    logits, labels, class_weight = inputs(shape, ignored=ignored, seed=seed)
    options = {"class_weight": class_weight if weighted else None, **VARIANTS[variant]}
    wanted = by_formula(logits.cpu(), labels.cpu(), **options)
    for function in (op.reference, op):
        found = function(logits, labels, **options)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a.cpu(), torch.tensor(b, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference_on_every_shape(shape, dtype):
    logits, labels, class_weight = inputs(shape, dtype)
    for name, options in VARIANTS.items():
        for weight in (None, class_weight.to(dtype)):
            with deterministic_and_poisoned():
                actual = run(op, logits, labels, class_weight=weight, **options)
            wanted = expected(logits, labels, weight, **options)
            check(actual, wanted, 1e-12 if dtype == torch.float64 else 3e-6, f"{shape} {name}")
            assert {t.dtype for t in actual} == {dtype}


@pytest.mark.parametrize("shape", [(2, 19, 13, 37, 13, 37), (2, 7, 5, 3, 13, 11)])
def test_without_gamma_focal_is_cross_entropy(shape):
    logits, labels, class_weight = inputs(shape)
    leaf = logits.detach().requires_grad_()
    full = torch.nn.functional.interpolate(leaf, size=labels.shape[1:], mode="bilinear", align_corners=False)
    stock = torch.nn.functional.cross_entropy(full, labels.long(), class_weight, ignore_index=255, reduction="none")
    loss = stock.sum() / (labels != 255).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    focal, _, ours, _ = run(op, logits, labels, gamma=0.0, class_weight=class_weight)
    torch.testing.assert_close(focal, loss.detach())
    torch.testing.assert_close(ours, gradient)


def test_class_weights_act_on_both_losses():
    logits, labels, _ = inputs((2, 5, 8, 9, 16, 18))
    plain = op(logits, labels)
    rare = torch.tensor([0.1, 0.1, 0.1, 0.1, 5.0], dtype=torch.float64, device=DEVICE)
    weighted = op(logits, labels, class_weight=rare)
    assert abs(weighted.focal / plain.focal - 1) > 0.01
    assert abs(weighted.dice / plain.dice - 1) > 0.001
    # One weight for all: focal scales with it, Dice, a mean, does not.
    equal = op(logits, labels, class_weight=torch.full_like(rare, 3.0))
    torch.testing.assert_close(equal.focal, 3 * plain.focal)
    torch.testing.assert_close(equal.dice, plain.dice)
    each = op(logits, labels, class_weight=torch.stack([torch.ones_like(rare), rare]))
    torch.testing.assert_close(each, FocalDice(plain.focal, weighted.dice))
    none = op(logits, labels, class_weight=torch.zeros_like(rare))
    assert none == (0, 0)


def test_absent_classes_are_left_out():
    logits, labels, _ = inputs((1, 4, 6, 7, 6, 7), ignored=0.0)
    labels[:] = 2
    _, dice, _, gradient = run(op, logits, labels)
    p = logits.softmax(1)[:, 2].sum()
    torch.testing.assert_close(dice, 1 - (2 * p + 1) / (p + 42 + 1))
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 7, 19, 255])
def test_any_ignore_index_and_label_dtype(label_dtype, ignore_index):
    for shape in [(2, 19, 9, 20, 9, 20), (2, 19, 3, 5, 9, 20)]:
        logits, labels, _ = inputs(shape, torch.float32, ignored=0.0, label_dtype=label_dtype)
        if label_dtype != torch.uint8 or ignore_index >= 0:
            labels[:, 2:5, 3:15] = ignore_index
        actual = run(op, logits, labels, ignore_index=ignore_index)
        check(actual, expected(logits, labels, ignore_index=ignore_index), 3e-6)


def test_layouts():
    for shape in [(2, 19, 11, 40, 11, 40), (2, 19, 6, 10, 17, 40)]:
        logits, labels, _ = inputs(shape, torch.float32)
        wanted = expected(logits, labels)
        for name, layout in layouts(logits).items():
            with deterministic_and_poisoned():
                actual = run(op, layout, labels)
            check(actual, wanted, 3e-6, name)
            assert actual[2].stride() == torch.empty_like(layout).stride(), name
        for name, layout in layouts(labels).items():
            check(run(op, logits, layout), wanted, 3e-6, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    for shape in [(2, 19, 16, 33, 16, 33), (2, 19, 8, 8, 32, 32), (1, 5, 4, 6, 9, 13)]:
        logits, labels, _ = inputs(shape, dtype)
        wanted = expected(logits, labels)
        for layout in layouts(logits).values():
            with deterministic_and_poisoned():
                actual = run(op, layout, labels)
            for a, b in zip(actual[:2], wanted[:2], strict=True):
                assert a.dtype == torch.float32
                torch.testing.assert_close(a.double(), b, rtol=3e-6, atol=0)
            for a, b in zip(actual[2:], wanted[2:], strict=True):
                assert a.dtype == dtype
                # One rounding at the end, and float16's smallest number.
                torch.testing.assert_close(a.double(), b, rtol=2**-7, atol=1e-7)


def test_autocast_changes_nothing():
    logits, labels, _ = inputs((2, 19, 8, 8, 16, 16), torch.bfloat16)
    plain = run(op, logits, labels)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(run(op, logits, labels), plain, strict=True))


@pytest.mark.parametrize("shape", [(2, 5, 6, 7, 6, 7), (2, 5, 3, 4, 6, 7)])
def test_nothing_valid(shape):
    logits, labels, class_weight = inputs(shape, torch.float32)
    for weight in (None, class_weight):
        focal, dice, *gradients = run(op, logits, torch.full_like(labels, 255), class_weight=weight)
        assert (focal, dice) == (0, 0)
        assert not any(gradient.any() for gradient in gradients)
    labels[0] = 255
    actual = run(op, logits, labels)
    check(actual, expected(logits, labels), 3e-6)
    assert not actual[2][0].any()
    assert not actual[3][0].any()


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_extreme_logits(options):
    logits, labels, _ = inputs((1, 5, 6, 8, 6, 8))
    labels[:] = 1
    masked = logits.clone()
    masked[:, 3] = -math.inf
    actual = run(op, masked, labels, **options)
    check(actual, expected(masked, labels, **options), 1e-12)
    assert max(gradient[:, 3].abs().max() for gradient in actual[2:]) < 1e-30
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        spread = logits.to(dtype) * 20
        check(run(op, spread, labels, **options), expected(spread, labels, **options), tolerance)
        # Certain and right, or certain and wrong.
        certain = run(op, logits.to(dtype) * 500, labels, **options)
        assert all(found.isfinite().all() for found in certain)
    masked[:, 1, 2, 2] = -math.inf
    assert op(masked, labels, **options).focal == math.inf


@pytest.mark.parametrize("shape", [(2, 5, 6, 7, 6, 7), (2, 5, 3, 4, 6, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_nan_shows_in_the_losses_unless_it_is_ignored(shape, dtype):
    logits, labels, _ = inputs(shape, dtype, ignored=0.0)
    logits[1, 2, 1, 1] = math.nan
    weight = torch.zeros(5, device=DEVICE)
    for options in ({}, {"gamma": 0.0}, {"gamma": 2.0}, {"class_weight": weight}):
        for function in (op, op.reference):
            focal, dice, *gradients = run(function, logits, labels, **options)
            assert focal.isnan()
            assert dice.isnan()
            assert all(gradient.isnan().any() for gradient in gradients)
    labels[1] = 255
    focal, dice, *gradients = run(op, logits, labels)
    assert focal.isfinite()
    assert dice.isfinite()
    assert not any(gradient[1].any() for gradient in gradients)


def test_repeats_and_thread_counts_give_equal_bits():
    threads = torch.get_num_threads()
    for shape in [(3, 19, 40, 130, 40, 130), (3, 19, 17, 30, 66, 130)]:
        logits, labels, class_weight = inputs(shape, torch.float32)
        results = []
        try:
            for count in (1, 2, 3, 1):
                torch.set_num_threads(count)
                with deterministic_and_poisoned():
                    results.append(run(op, logits, labels, class_weight=class_weight))
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
    backends(DEVICE)["focal_dice"] == "reference", reason="no compiled operators on this device"
)


@needs_kernels
@pytest.mark.parametrize("shape", [(2, 5, 6, 9, 6, 9), (2, 5, 3, 4, 6, 9)])
def test_opcheck(shape):
    logits, labels, _ = inputs(shape, torch.float32)
    for layout in layouts(logits).values():
        opcheck("focal_dice_sums", layout.detach().requires_grad_(), labels, 2.0, 255)
        sums, log_sum_exp = torch.ops.dgseg.focal_dice_sums(layout, labels, 2.0, 255)
        opcheck("focal_dice_backward", torch.ones_like(sums), layout, labels, log_sum_exp, 2.0, 255)
    assert sums[3].sum() == (labels != 255).sum()


@needs_kernels
@pytest.mark.parametrize("shape", [(0, 5, 4, 4, 4, 4), (0, 5, 2, 2, 4, 4), (2, 5, 0, 4, 0, 4)])
def test_operators_take_empty_tensors(shape):
    # The public function refuses them; a compiler that probes the operators must not crash on them.
    logits, labels, _ = inputs(shape, torch.float32)
    sums, log_sum_exp = torch.ops.dgseg.focal_dice_sums(logits, labels, 1.0, 255)
    assert sums.tolist() == [[0.0] * 5] * 4
    gradient = torch.ops.dgseg.focal_dice_backward(sums, logits, labels, log_sum_exp, 1.0, 255)
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("shape", [(2, 3, 3, 4, 3, 4), (1, 3, 2, 3, 5, 7)])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_gradcheck(shape, options):
    logits, labels, class_weight = inputs(shape)
    function = lambda z: op(z, labels, class_weight=class_weight, **options)  # noqa: E731
    torch.autograd.gradcheck(function, (logits.requires_grad_(),))


def test_each_loss_has_its_own_gradient():
    logits, labels, _ = inputs((2, 5, 3, 4, 6, 9))
    _, _, focal, dice = run(op, logits, labels)
    leaf = logits.detach().requires_grad_()
    result = op(leaf, labels)
    (mixed,) = torch.autograd.grad(0.3 * result.dice - 7 * result.focal, leaf)
    torch.testing.assert_close(mixed, 0.3 * dice - 7 * focal)
    assert (focal - dice).abs().max() > 1e-3 * focal.abs().max()
    assert not any(t.requires_grad for t in op(logits.detach(), labels))


@needs_kernels
def test_a_second_derivative_is_refused():
    logits, labels, _ = inputs((1, 3, 4, 4, 4, 4))
    logits.requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(op(logits, labels).dice, logits, create_graph=True)


@needs_kernels
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend):
    logits, labels, class_weight = inputs((2, 19, 8, 9, 32, 33), torch.float32)
    plain = lambda z: op(2 * z, labels, class_weight=class_weight)  # noqa: E731
    for a, b in zip(run(compiled(plain, backend), logits), run(plain, logits), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_compiles_while_gamma_changes():
    labels, logits = label_map(1, 9, 11, classes=4), normal(1, 4, 9, 11)
    function = compiled(lambda gamma: op(logits, labels, gamma=gamma).focal)
    for gamma in (1.0, 2.0, 3.5, 4.0):
        torch.testing.assert_close(function(gamma), op(logits, labels, gamma=gamma).focal)


RANK_CASES = [
    (shape, variant, void)
    for shape in [(4, 5, 6, 9, 6, 9), (4, 5, 3, 4, 7, 9)]
    for variant in VARIANTS
    for void in (False, True)
]
FUNCTIONS = ((op.reference, torch.float64), (op, torch.float64), (op, torch.float32))


def _case(shape, variant, void, dtype):
    logits, labels, class_weight = inputs(shape, dtype)
    labels[:2][labels[:2] == 3] = 255  # a class that only rank 1 has
    if void:
        labels[2:] = 255  # all that rank 1 has
    else:
        labels[0, :4] = 255  # ranks of unequal weight
    return logits, labels, {"class_weight": class_weight.to(dtype), **VARIANTS[variant]}


def _on_rank(rank, group):
    found = []
    mine = slice(2 * rank, 2 * rank + 2)
    for case in RANK_CASES:
        for function, dtype in FUNCTIONS:
            logits, labels, options = _case(*case, dtype)
            found.append(list(run(function, logits[mine], labels[mine], group=group, **options)))
    return found


@pytest.mark.skipif(DEVICE.type != "cpu", reason="gloo ranks share the CPU")
def test_two_ranks_equal_one_process_on_the_whole_batch():
    ranks = zip(*run_ranks(_on_rank), strict=True)
    for case in RANK_CASES:
        for function, dtype in FUNCTIONS:
            tolerance = 1e-12 if dtype == torch.float64 else 1e-6
            logits, labels, options = _case(*case, dtype)
            focal, dice, *gradients = run(function, logits, labels, **options)
            first, second = next(ranks)
            for together, alone in [
                ((first[0] + second[0]) / 2, focal),
                ((first[1] + second[1]) / 2, dice),
                *((torch.cat([first[i], second[i]]) / 2, gradients[i - 2]) for i in (2, 3)),
            ]:
                torch.testing.assert_close(together, alone, rtol=tolerance, atol=tolerance)


def test_forced_reference(monkeypatch):
    monkeypatch.setenv("DGSEG_BACKEND", "reference")
    assert backends(DEVICE)["focal_dice"] == "reference"
    logits, labels, _ = inputs((1, 3, 4, 4, 8, 8))
    assert op(logits, labels) == op.reference(logits, labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": torch.zeros(3, 4, 4)}, "logits must have 4 dimensions"),
        ({"labels": torch.zeros(2, 8, 8)}, "labels must be uint8, int32, int64"),
        ({"labels": torch.zeros(3, 8, 8, dtype=torch.uint8)}, "same batch"),
        ({"labels": torch.zeros(2, 3, 8, dtype=torch.uint8)}, "logits of size 4x4 are larger than labels of size 3x8"),
        ({"logits": torch.zeros(0, 3, 4, 4), "labels": torch.zeros(0, 8, 8, dtype=torch.uint8)}, "skip empty batches"),
        ({"labels": torch.zeros(2, 8, 8, dtype=torch.uint8, device="meta")}, "must be on one device"),
        ({"class_weight": torch.ones(4)}, r"class_weight must have shape \[3\]"),
        ({"class_weight": torch.ones(2, 4)}, r"class_weight must have shape \[3\]"),
        ({"class_weight": torch.ones(3, 3)}, "a row for focal and one for Dice; it has 3"),
        ({"class_weight": torch.ones(3, requires_grad=True)}, "detach"),
        ({"gamma": -1.0}, "gamma must be finite and at least 0"),
        ({"gamma": math.nan}, "gamma must be finite"),
        ({"smooth": math.inf}, "smooth must be finite"),
    ],
)
def test_bad_input_says_what_to_change(changed, message):
    arguments = {"logits": torch.zeros(2, 3, 4, 4), "labels": torch.zeros(2, 8, 8, dtype=torch.uint8)} | changed
    with pytest.raises(ValueError, match=message):
        op(arguments.pop("logits"), arguments.pop("labels"), **arguments)


@pytest.mark.parametrize(("value", "dtype"), [(3, torch.uint8), (200, torch.uint8), (-(2**40), torch.int64)])
@pytest.mark.parametrize("size", [8, 4])
@pytest.mark.parametrize("forced", [False, True])
def test_a_label_outside_the_classes_is_named(monkeypatch, forced, size, value, dtype):
    # On a GPU reading labels would make the host wait: DGSEG_DEBUG=1 asks for it.
    monkeypatch.setenv("DGSEG_DEBUG", "1")
    if forced:
        monkeypatch.setenv("DGSEG_BACKEND", "reference")
    labels = torch.zeros(2, 8, 8, dtype=dtype, device=DEVICE)
    labels[1, 5, 6] = value
    with pytest.raises(
        (ValueError, RuntimeError), match=f"labels hold {value} at batch index 1; valid: 0 to 2, or 255"
    ):
        op(torch.zeros(2, 3, size, size, device=DEVICE), labels)
