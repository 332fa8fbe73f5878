"""dgseg.ops.boundary_bands: exact against its reference, and the reference against the definition."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.ops import boundary_bands
from tests.ops.harness import DEVICE, LABEL_DTYPES, compiled, deterministic_and_poisoned, label_map, layouts, opcheck

# (N, H, W): why it is here
SHAPES = {
    (1, 1, 1): "no neighbour at all",
    (1, 1, 70): "a single row, wider than a 64-bit word",
    (2, 70, 1): "a single column",
    (3, 5, 7): "smaller than the window",
    (1, 64, 64): "exactly one word and one strip",
    (1, 65, 63): "one row more and one column less than those",
    (2, 129, 200): "three strips, a ragged last word",
    (1, 40, 1030): "more columns than one tile of the min/max path",
    (0, 8, 8): "an empty batch",
    (2, 0, 8): "no rows",
}
RADII = [(1,), (1, 2, 4), (2, 3, 7), (5, 64, 70), (1, 2, 3, 4, 5, 6)]


def by_definition(labels: torch.Tensor, radii: tuple[int, ...], ignore_index: int = 255) -> torch.Tensor:
    """The definition, pixel by pixel."""
    N, H, W = labels.shape
    bands = torch.zeros(N, H, W, dtype=torch.uint8)
    for n in range(N):
        for y in range(H):
            for x in range(W):
                if int(labels[n, y, x]) == ignore_index:
                    continue
                for b, r in enumerate(radii):
                    window = labels[n, max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
                    if len(set(window.flatten().tolist()) - {ignore_index}) > 1:
                        bands[n, y, x] = b + 1
                        break
    return bands


@settings(max_examples=60, deadline=None)
@given(
    H=st.integers(1, 12),
    W=st.integers(1, 12),
    classes=st.integers(1, 4),
    ignored=st.sampled_from([0.0, 0.2, 0.9]),
    radii=st.lists(st.integers(1, 14), min_size=1, max_size=4, unique=True).map(sorted),
    seed=st.integers(0, 2**31 - 1),
)
def test_reference_and_kernel_equal_the_definition(H, W, classes, ignored, radii, seed):
    labels = label_map(1, H, W, classes=classes, ignored=ignored, block=3, seed=seed)
    expected = by_definition(labels.cpu(), tuple(radii))
    assert torch.equal(boundary_bands.reference(labels, radii).cpu(), expected)
    assert torch.equal(boundary_bands(labels, radii).cpu(), expected)


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
@pytest.mark.parametrize("ignored", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("radii", RADII)
def test_equals_reference_on_every_shape(radii, ignored, dtype):
    for shape in SHAPES:
        labels = label_map(*shape, ignored=ignored).to(dtype)
        with deterministic_and_poisoned():
            actual = boundary_bands(labels, radii)
        assert torch.equal(actual, boundary_bands.reference(labels, radii)), shape


def test_ignored_pixels_in_one_strip_only():
    # Strips without ignored pixels take the bit path, the others the min/max path: their seams must match.
    labels = label_map(1, 300, 150, ignored=0.0)
    labels[:, 100:104, 30:90] = 255
    assert torch.equal(boundary_bands(labels, (1, 2, 4)), boundary_bands.reference(labels, (1, 2, 4)))


@pytest.mark.parametrize(
    "sampling", [{"stride": 2}, {"stride": 4}, {"stride": 7}, {"size": (13, 31)}, {"size": (80, 90)}]
)
def test_sampling(sampling):
    labels = label_map(2, 61, 75)
    actual = boundary_bands(labels, (1, 2, 4), **sampling)
    assert torch.equal(actual, boundary_bands.reference(labels, (1, 2, 4), **sampling))
    rows = (
        torch.arange(0, 61, sampling["stride"])
        if "stride" in sampling
        else torch.arange(sampling["size"][0]) * 61 // sampling["size"][0]
    )
    columns = (
        torch.arange(0, 75, sampling["stride"])
        if "stride" in sampling
        else torch.arange(sampling["size"][1]) * 75 // sampling["size"][1]
    )
    sampled = labels[:, rows.to(DEVICE)][:, :, columns.to(DEVICE)]
    assert torch.equal(actual, boundary_bands.reference(sampled, (1, 2, 4)))


def test_windows_larger_than_the_map_see_the_map():
    # Radii beyond the map cost what the map costs, also where R^2 pixels would not fit in memory or in 64 bits.
    for ignored in (0.0, 0.2):
        labels = label_map(1, 27, 33, classes=3, ignored=ignored)
        for radii in [(2, 100_000), (1, 2**62)]:
            assert torch.equal(boundary_bands(labels, radii), boundary_bands.reference(labels, radii))


def test_layouts():
    labels = label_map(2, 50, 131)
    expected = boundary_bands.reference(labels, (1, 2, 4))
    for name, layout in layouts(labels).items():
        assert torch.equal(boundary_bands(layout, (1, 2, 4)), expected), name


@pytest.mark.parametrize("ignore_index", [-1, -100, 0, 7, 254, 300])
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_any_ignore_index(dtype, ignore_index):
    labels = label_map(1, 40, 80, ignored=0.0).to(dtype)
    if dtype != torch.uint8:
        labels[:, 10:14, 20:40] = ignore_index
    expected = boundary_bands.reference(labels, (1, 3), ignore_index=ignore_index)
    assert torch.equal(boundary_bands(labels, (1, 3), ignore_index=ignore_index), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_labels_beyond_a_byte_stay_distinct(dtype):
    # 7 and 263 are the same byte; 255 as a class beside ignore_index=-1 must not be taken for ignored.
    for a, b in [(7, 263), (255, 3), (-5, 251), (2**31 - 1, -(2**31))]:
        labels = torch.full((1, 20, 90), a, dtype=dtype, device=DEVICE)
        labels[:, 9:, 40:] = b
        labels[:, 3, 3] = -1
        expected = boundary_bands.reference(labels, (1, 2), ignore_index=-1)
        assert torch.equal(boundary_bands(labels, (1, 2), ignore_index=-1), expected)
        assert expected.any()


@pytest.mark.skipif(DEVICE.type != "cpu", reason="instruction sets are a matter of the CPU")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_other_instruction_sets(isa):
    # The suite itself runs the best variant of this machine; the choice is made once per process.
    names = "(equals_reference_on_every_shape and dtype0) or in_one_strip_only or layouts"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", names]
    done = subprocess.run(command, env=os.environ | {"DGSEG_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_opcheck():
    labels = label_map(2, 20, 70)
    for layout in layouts(labels).values():
        opcheck("boundary_bands", layout, [1, 2], 1, None, 255)
    opcheck("boundary_bands", labels, [1, 2], 3, None, 255)
    opcheck("boundary_bands", labels.long(), [1], 1, [5, 9], 255)


def test_compiles_without_a_graph_break():
    labels = label_map(2, 33, 65)
    function = compiled(lambda t: boundary_bands(t, (1, 2, 4), stride=2))
    assert torch.equal(function(labels), boundary_bands.reference(labels, (1, 2, 4), stride=2))


def test_forced_reference(monkeypatch):
    monkeypatch.setenv("DGSEG_BACKEND", "reference")
    from dgseg.ops import backends

    assert set(backends(DEVICE).values()) == {"reference"}
    labels = label_map(1, 9, 9)
    assert torch.equal(boundary_bands(labels, (1,)), boundary_bands.reference(labels, (1,)))


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (torch.zeros(4, 4, dtype=torch.uint8), {"radii": (1,)}, "must have 3 dimensions"),
        (torch.zeros(1, 4, 4), {"radii": (1,)}, "must be uint8, int32, int64"),
        ([[[1]]], {"radii": (1,)}, "must be a tensor"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), {"radii": 1}, "sequence of whole numbers"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), {"radii": (1.5,)}, "whole numbers"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), {"radii": ()}, "1 to 254"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), {"radii": (2, 1)}, "increasing"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), {"radii": (0, 1)}, "at least 1"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), {"radii": (1,), "stride": 0}, "stride must be at least 1"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), {"radii": (1,), "size": (0, 3)}, "each at least 1"),
        (
            torch.zeros(1, 4, 4, dtype=torch.uint8),
            {"radii": (1,), "size": (2, 2), "stride": 2},
            "either stride or size",
        ),
        (torch.zeros(1, 0, 4, dtype=torch.uint8), {"radii": (1,), "size": (2, 2)}, "no pixel"),
    ],
)
def test_bad_input_says_what_to_change(labels, arguments, message):
    with pytest.raises(ValueError, match=message):
        boundary_bands(labels, **arguments)
