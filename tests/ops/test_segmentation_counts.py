"""dgseg.ops.segmentation_counts: exact against its reference, and the reference against the definition.

Where rounding could decide between two classes that are almost equal, logits are small integers and sizes such that
interpolation is exact; random logits are compared on pixels whose two largest values differ by more than rounding.
"""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgseg.ops import segmentation_counts
from tests.ops.harness import (
    DEVICE,
    FLOATS,
    LABEL_DTYPES,
    compiled,
    deterministic_and_poisoned,
    generator,
    label_map,
    layouts,
    normal,
    opcheck,
)

# (N, C, h, w, H, W), interpolation exact: why it is here
SHAPES = {
    (1, 1, 1, 1, 1, 1): "one pixel, one class",
    (2, 19, 17, 23, 17, 23): "logits at label size, odd",
    (1, 19, 40, 500, 40, 500): "the same, more columns than a block",
    (2, 19, 16, 32, 64, 128): "4x, the usual one",
    (1, 5, 9, 7, 72, 56): "8x: more rows between two source rows than are predicted at once",
    (1, 4, 30, 37, 60, 74): "2x, a ragged last vector",
    (1, 3, 12, 12, 16, 16): "4/3: exact although not whole",
    (1, 3, 8, 6, 8, 24): "upsampled in one direction",
    (1, 3, 8, 6, 32, 6): "and in the other",
    (1, 2, 1, 1, 9, 33): "a single source pixel",
    (1, 150, 5, 40, 20, 160): "many classes: several blocks",
    (1, 130, 4, 8, 16, 32): "more classes than the GPU's shared histogram holds",
    (1, 7, 3, 260, 24, 2080): "8x and wide: several blocks with interpolation across their seams",
    (1, 3, 140, 4, 8960, 4): "several tasks",
    (0, 3, 4, 4, 8, 8): "an empty batch",
    (1, 3, 0, 4, 0, 8): "no rows",
}


def whole_logits(N: int, C: int, h: int, w: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Integers from -4 to 4, so that ties abound, plus patches where one class leads."""
    g = generator(seed)
    values = torch.randint(-4, 5, (N, C, h, w), generator=g)
    if h > 4 and w > 4:
        values[:, C // 2, : h // 2, : w // 2] += 9
    return values.to(dtype).to(DEVICE)


def by_definition(logits: Tensor, labels: Tensor, classes: int, ignore_index: int = 255) -> Tensor:
    """The definition, pixel by pixel, in Python's floats."""
    N, h, w = len(logits), *logits.shape[2:]
    H, W = labels.shape[1:]
    values, truth = logits.double().tolist(), labels.tolist()
    counts = torch.zeros(classes, classes + 1, dtype=torch.int64)
    for n in range(N):
        for y in range(H):
            for x in range(W):
                if truth[n][y][x] == ignore_index:
                    continue
                v = max(0.0, (y + 0.5) * h / H - 0.5)
                u = max(0.0, (x + 0.5) * w / W - 0.5)
                i, j = int(v), int(u)
                i1, j1, a, b = min(i + 1, h - 1), min(j + 1, w - 1), v - i, u - j
                mixed = [
                    (1 - a) * ((1 - b) * p[i][j] + b * p[i][j1]) + a * ((1 - b) * p[i1][j] + b * p[i1][j1])
                    for p in values[n]
                ]
                counts[truth[n][y][x], mixed.index(max(mixed))] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.sampled_from(
        [(1, 1, 1, 1), (3, 4, 3, 4), (2, 3, 8, 6), (4, 2, 8, 16), (1, 5, 4, 5), (3, 3, 4, 4), (2, 1, 16, 8)]
    ),
    N=st.integers(1, 2),
    C=st.integers(1, 5),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 2**31 - 1),
)
def test_reference_and_kernel_equal_the_definition(sizes, N, C, ignored, dtype, seed):
    h, w, H, W = sizes
    logits = whole_logits(N, C, h, w, dtype=dtype, seed=seed)
    labels = label_map(N, H, W, classes=C, ignored=ignored, block=2, seed=seed)
    expected = by_definition(logits, labels, C)
    assert torch.equal(segmentation_counts.reference(logits, labels, num_classes=C).cpu(), expected)
    assert torch.equal(segmentation_counts(logits, labels, num_classes=C).cpu(), expected)


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_equals_reference_on_every_shape(dtype, label_dtype):
    for N, C, h, w, H, W in SHAPES:
        logits = whole_logits(N, C, h, w, dtype=dtype)
        labels = label_map(N, H, W, classes=C).to(label_dtype)
        with deterministic_and_poisoned():
            actual = segmentation_counts(logits, labels, num_classes=C)
        assert actual.dtype == torch.int64
        assert actual.shape == (C, C + 1)
        assert torch.equal(actual, segmentation_counts.reference(logits, labels, num_classes=C)), (N, C, h, w, H, W)
        assert actual.sum() == (labels != 255).sum()
        assert not actual[:, C].any()


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_random_logits_where_the_margin_is_clear(dtype, smooth):
    # 3x and 5/3: weights that no binary fraction holds. Smooth logits have regions led by one class.
    for h, w, H, W in [(32, 64, 128, 256), (21, 30, 63, 90), (21, 30, 35, 50), (64, 96, 64, 96)]:
        logits = normal(2, 19, h, w, scale=3.0)
        if smooth:
            logits = F.interpolate(logits[..., ::8, ::8], size=(h, w), mode="bilinear") + 0.01 * logits
        logits = logits.to(dtype)
        full = logits.double()
        if (h, w) != (H, W):
            full = F.interpolate(full, size=(H, W), mode="bilinear", align_corners=False)
        largest = full.topk(2, dim=1).values
        labels = label_map(2, H, W)
        labels[largest[:, 0] - largest[:, 1] <= 1e-5] = 255
        assert (labels != 255).float().mean() > 0.85
        assert torch.equal(
            segmentation_counts(logits, labels, num_classes=19),
            segmentation_counts.reference(full, labels, num_classes=19),
        )


@pytest.mark.parametrize("sizes", [(12, 20, 12, 20), (12, 20, 48, 80), (12, 20, 24, 20), (12, 20, 12, 40)])
def test_nan_is_largest_and_infinities_spread_as_in_torch(sizes):
    h, w, H, W = sizes
    g = generator(3)
    logits = whole_logits(2, 6, h, w)
    for value in (float("nan"), float("inf"), -float("inf")):
        for _ in range(12):
            n, c, i, j = (int(torch.randint(0, s, (), generator=g)) for s in logits.shape)
            logits[n, c, i, j] = value
    logits[1, 4] = -float("inf")  # a class that was masked out
    labels = label_map(2, H, W, classes=6)
    expected = segmentation_counts.reference(logits, labels, num_classes=6)
    assert torch.equal(segmentation_counts(logits, labels, num_classes=6), expected)


def test_values_near_the_end_of_the_range_do_not_overflow():
    logits = torch.full((1, 3, 8, 8), -3e38, device=DEVICE)
    logits[:, 1, :, 4:] = 3e38
    logits[:, 2, :, :4] = 3e38
    labels = label_map(1, 32, 32, classes=3)
    # As doubles nothing overflows; the two halves are equal only nowhere (even scale, no pixel in the middle).
    expected = segmentation_counts.reference(logits.double(), labels, num_classes=3)
    assert torch.equal(segmentation_counts(logits, labels, num_classes=3), expected)


def test_layouts():
    logits = whole_logits(2, 19, 16, 33)
    labels = label_map(2, 64, 132)
    expected = segmentation_counts.reference(logits, labels, num_classes=19)
    for name, layout in layouts(logits).items():
        assert torch.equal(segmentation_counts(layout, labels, num_classes=19), expected), name
    for name, layout in layouts(labels).items():
        assert torch.equal(segmentation_counts(logits, layout, num_classes=19), expected), name
    expanded = logits[:1].expand(2, -1, -1, -1)
    assert torch.equal(
        segmentation_counts(expanded, labels, num_classes=19),
        segmentation_counts.reference(expanded.contiguous(), labels, num_classes=19),
    )


@pytest.mark.parametrize("ignore_index", [-1, -100, 0, 2, 254, 300])
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_any_ignore_index(dtype, ignore_index):
    logits = whole_logits(1, 5, 10, 20)
    labels = label_map(1, 40, 80, classes=5, ignored=0.0).to(dtype)
    if dtype != torch.uint8 or 0 <= ignore_index <= 255:
        labels[:, 10:14, 20:40] = ignore_index
    expected = segmentation_counts.reference(logits, labels, num_classes=5, ignore_index=ignore_index)
    assert torch.equal(segmentation_counts(logits, labels, num_classes=5, ignore_index=ignore_index), expected)


def test_autocast_and_gradients_are_no_matter():
    logits = whole_logits(1, 5, 8, 8).requires_grad_()
    labels = label_map(1, 32, 32, classes=5)
    expected = segmentation_counts.reference(logits, labels, num_classes=5)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        actual = segmentation_counts(logits, labels, num_classes=5)
    assert torch.equal(actual, expected)
    assert not actual.requires_grad


def test_same_bits_for_any_number_of_threads_and_on_every_call():
    logits = normal(3, 19, 60, 90, scale=3.0)
    labels = label_map(3, 240, 360)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 3, threads):
            torch.set_num_threads(number)
            found += [segmentation_counts(logits, labels, num_classes=19) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="instruction sets are a matter of the CPU")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_other_instruction_sets(isa):
    # The suite itself runs the best variant of this machine; the choice is made once per process.
    names = "(every_shape and label_dtype0) or layouts or nan_is_largest or clear"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", names]
    done = subprocess.run(command, env=os.environ | {"DGSEG_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_opcheck():
    logits, labels = whole_logits(2, 5, 8, 12), label_map(2, 16, 24, classes=5)
    for layout in layouts(logits).values():
        opcheck("segmentation_counts", layout, labels, 255)
    for layout in layouts(labels).values():
        opcheck("segmentation_counts", logits, layout.long(), -1 if int(labels.max()) < 5 else 255)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend):
    logits, labels = whole_logits(2, 5, 8, 12), label_map(2, 32, 48, classes=5)
    function = compiled(lambda a, b: segmentation_counts(a, b, num_classes=5) * 2, backend)
    assert torch.equal(function(logits, labels), 2 * segmentation_counts.reference(logits, labels, num_classes=5))


def test_forced_reference(monkeypatch):
    monkeypatch.setenv("DGSEG_BACKEND", "reference")
    logits, labels = whole_logits(1, 5, 8, 12), label_map(1, 32, 48, classes=5)
    assert torch.equal(
        segmentation_counts(logits, labels, num_classes=5),
        segmentation_counts.reference(logits, labels, num_classes=5),
    )


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(19, torch.uint8), (254, torch.uint8), (-1, torch.int32), (2**40, torch.int64), (19, torch.int64)],
)
def test_a_label_outside_the_classes_is_named(value, dtype, monkeypatch):
    monkeypatch.setenv("DGSEG_DEBUG", "1")
    logits = whole_logits(3, 19, 8, 8)
    labels = label_map(3, 32, 32).to(dtype)
    labels[2, 31, 31] = value
    labels[1, 20, 5] = value
    for function in (segmentation_counts, segmentation_counts.reference):
        with pytest.raises(
            (ValueError, RuntimeError), match=f"labels hold {value} at batch index 1; valid: 0 to 18, or 255"
        ):
            function(logits, labels, num_classes=19)


FLOAT = torch.zeros(2, 3, 4, 4)
LABEL = torch.zeros(2, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("logits", "labels", "classes", "message"),
    [
        (FLOAT[0], LABEL, 3, "logits must have 4 dimensions"),
        (FLOAT, LABEL[0], 3, "labels must have 3 dimensions"),
        (FLOAT.int(), LABEL, 3, "logits must be float32"),
        (FLOAT, LABEL.float(), 3, "labels must be uint8, int32, int64"),
        ([1.0], LABEL, 3, "logits must be a tensor"),
        (FLOAT, LABEL.to("meta"), 3, "on one device"),
        (FLOAT, LABEL[:1], 3, "give both the same batch"),
        (FLOAT, LABEL, 4, "they must agree"),
        (FLOAT[:, :0], LABEL, 0, "1 to 4096"),
        (FLOAT, LABEL[:, :3], 3, "larger than labels"),
        (FLOAT, LABEL[:, :, :2], 3, "larger than labels"),
        (FLOAT[:, :, :0], LABEL, 3, "no pixel to upsample from"),
    ],
)
def test_bad_input_says_what_to_change(logits, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        segmentation_counts(logits, labels, num_classes=classes)


def test_the_raw_operator_guards_itself():
    # Nobody should call it, but whoever does must not read out of bounds.
    operator = torch.ops.dgseg.segmentation_counts
    with pytest.raises(RuntimeError, match="at label size or below"):
        operator(FLOAT.to(DEVICE), LABEL[:, :2].to(DEVICE), 255)
    with pytest.raises(RuntimeError, match="one batch size"):
        operator(FLOAT.to(DEVICE), LABEL[:1].to(DEVICE), 255)


def test_more_classes_than_a_byte_holds():
    labels, logits = label_map(1, 9, 11, classes=256, ignored=0.0), normal(1, 300, 9, 11)
    for function in (segmentation_counts, segmentation_counts.reference):
        counts = function(logits, labels, num_classes=300, ignore_index=-1)
        assert int(counts.sum()) == 99
        assert torch.equal(counts.sum(1).cpu(), torch.bincount(labels.flatten().long().cpu(), minlength=300))
