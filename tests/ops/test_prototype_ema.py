"""dgseg.ops.prototype_ema_ against its float64 reference, and the reference against a literal loop over pixels."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgseg.ops import prototype_ema_
from dgseg.ops.prototype_ema.order import pixel_keys
from tests.ops.harness import (
    DEVICE,
    FLOATS,
    LABEL_DTYPES,
    compiled,
    deterministic_and_poisoned,
    generator,
    layouts,
    normal,
    opcheck,
    run_ranks,
)

# (N, D, h, w): why it is here
SHAPES = {
    (1, 1, 1, 1): "one value",
    (2, 1, 5, 7): "a single channel",
    (3, 17, 4, 4): "one channel more than a vector, an image smaller than a tile",
    (1, 64, 16, 16): "exactly one tile",
    (2, 130, 9, 31): "two tiles an image, ragged; channels in wide and single vectors",
    (1, 48, 70, 65): "several tiles, more than one flush of the float sums",
    (1, 1030, 5, 13): "a tile of fewer pixels, for its many channels",
    (0, 8, 4, 4): "an empty batch",
    (2, 8, 0, 4): "no rows",
}
MODES = [(mode, nested) for mode in ("batch_mean", "pixel") for nested in (False, True)]


class Case(NamedTuple):
    prototypes: Tensor
    updates: Tensor
    features: Tensor
    labels: Tensor
    bands: Tensor

    def run(self, function: Any = prototype_ema_, dtype: torch.dtype | None = None, **options: Any) -> Case:
        """What prototypes and updates become; dtype converts prototypes and features first."""
        p, u = self.prototypes.to(dtype or self.prototypes.dtype).clone(), self.updates.clone()
        features = self.features if dtype is None else self.features.to(dtype)
        assert function(p, u, features, self.labels, self.bands, **options) is None
        return self._replace(prototypes=p, updates=u)


def case(N=2, D=12, h=9, w=11, *, C=4, G=3, dtype=torch.float32, seed=0) -> Case:
    """Pixels in every band and in none, a class without pixels, seen and unseen cells."""
    g = generator(seed)
    labels = torch.randint(0, max(C - 1, 1), (N, h, w), generator=g, dtype=torch.uint8)
    bands = torch.randint(0, G + 1, (N, h, w), generator=g, dtype=torch.uint8)
    labels[bands == 0] = 255
    updates = torch.randint(0, 3, (C, G), generator=g)
    return Case(
        normal(C, G, D, seed=seed + 1), updates.to(DEVICE), normal(N, D, h, w, dtype=dtype, seed=seed + 2),
        labels.to(DEVICE), bands.to(DEVICE),
    )  # fmt: skip


def assert_same(actual: Case, expected: Case, tolerance: float) -> None:
    assert torch.equal(actual.updates, expected.updates)
    torch.testing.assert_close(
        actual.prototypes.double(), expected.prototypes.double(), rtol=0, atol=tolerance, equal_nan=True
    )


def key_by_definition(seed: int, step: int, sample_id: int, pixel: int) -> int:
    state = 0
    for number in (seed, step, sample_id, pixel):
        z = (state + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        state = z ^ z >> 31
    return state >> 1


def by_definition(c: Case, *, momentum, mode, nested, seed=0, step=0, sample_ids=None) -> Case:
    """One pixel after the other."""
    p, u = c.prototypes.double().cpu().clone(), c.updates.cpu().clone()
    N, _, h, w = c.features.shape
    features = c.features.double().cpu()
    pixels: dict[tuple[int, int], list[tuple[int, int, Tensor]]] = {}
    for n in range(N):
        for y in range(h):
            for x in range(w):
                band, label = int(c.bands[n, y, x]), int(c.labels[n, y, x])
                if band == 0:
                    continue
                f = features[n, :, y, x]
                f = f / max(float(f.norm()), 1e-12)
                sample = n if sample_ids is None else int(sample_ids[n])
                key = key_by_definition(seed, step, sample, y * w + x)
                for g in range(band - 1, p.shape[1] if nested else band):
                    pixels.setdefault((label, g), []).append((key, (n * h + y) * w + x, f))
    for cell, members in pixels.items():
        mean = torch.stack([f for _, _, f in members]).mean(0)
        if u[cell] == 0:
            p[cell] = mean
        elif mode == "batch_mean":
            p[cell] = momentum * p[cell] + (1 - momentum) * mean
        else:
            for _, _, f in sorted(members, key=lambda member: member[:2]):
                p[cell] = momentum * p[cell] + (1 - momentum) * f
        u[cell] += len(members) if mode == "pixel" else 1
    return c._replace(prototypes=p.to(DEVICE), updates=u.to(DEVICE))


@settings(max_examples=50, deadline=None)
@given(
    N=st.integers(1, 3),
    D=st.integers(1, 20),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    C=st.integers(1, 4),
    G=st.integers(1, 3),
    mode_nested=st.sampled_from(MODES),
    momentum=st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0]),
    seed=st.sampled_from([0, 1, -5, 2**63 - 1, -(2**63)]),
    same_id=st.booleans(),
    draw=st.integers(0, 2**20),
)
def test_reference_and_kernel_equal_the_definition(N, D, h, w, C, G, mode_nested, momentum, seed, same_id, draw):
    mode, nested = mode_nested
    ids = (torch.zeros(N) if same_id else torch.randperm(N, generator=generator(draw))).long().to(DEVICE)
    options = {"momentum": momentum, "mode": mode, "nested": nested, "seed": seed, "step": draw, "sample_ids": ids}
    c = case(N, D, h, w, C=C, G=G, seed=draw)
    expected = by_definition(c, **options)
    assert_same(c.run(prototype_ema_.reference, torch.float64, **options), expected, 1e-11)
    assert_same(c.run(dtype=torch.float64, **options), expected, 1e-11)
    assert_same(c.run(**options), expected, 2e-6 if DEVICE.type == "cuda" else 1e-6)


@pytest.mark.parametrize(("mode", "nested"), MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_equals_the_float64_reference_on_every_shape(dtype, mode, nested):
    for shape in SHAPES:
        c = case(*shape, dtype=dtype)
        expected = c.run(prototype_ema_.reference, torch.float64, mode=mode, nested=nested, momentum=0.9)
        double = dtype == torch.float64  # prototypes too; otherwise they are float32
        with deterministic_and_poisoned():
            actual = c.run(dtype=dtype if double else None, mode=mode, nested=nested, momentum=0.9)
        assert_same(actual, expected, 1e-13 if double else 1e-6)
    mixed = case(2, 33, 13, 15, dtype=torch.float64)  # float64 features move float32 prototypes
    expected = mixed.run(prototype_ema_.reference, torch.float64, mode=mode, nested=nested)
    assert_same(mixed.run(mode=mode, nested=nested), expected, 1e-6)


@pytest.mark.parametrize("nested", [False, True])
def test_more_pixels_than_the_newest_ones_that_weigh_anything(nested):
    # momentum 0.5 forgets everything after 41 pixels; 19 classes would leave too few a cell.
    c = case(2, 8, 60, 70, C=3)
    options = {"mode": "pixel", "momentum": 0.5, "nested": nested}
    expected = c.run(prototype_ema_.reference, torch.float64, **options)
    assert_same(c.run(dtype=torch.float64, **options), expected, 1e-14)
    assert_same(expected, by_definition(c, **options), 1e-11)
    # Pixels too old to count are not even read.
    pushed = c._replace(updates=torch.ones_like(c.updates))
    keys = pixel_keys(torch.arange(2, device=DEVICE), 0, 0, 60, 70).view(2, 60, 70)
    old = keys < 2**62  # of each cell's hundreds of pixels
    poisoned = pushed._replace(features=torch.where(old[:, None], float("nan"), c.features))
    assert torch.equal(poisoned.run(**options).prototypes, pushed.run(**options).prototypes)


def test_the_order_is_a_function_of_seed_step_and_sample_alone():
    c = case(4, 8, 9, 9)._replace(updates=torch.ones(4, 3, dtype=torch.long, device=DEVICE))
    ids = torch.tensor([7, 3, 11, 2], device=DEVICE)
    base = c.run(dtype=torch.float64, mode="pixel", seed=1, step=2, sample_ids=ids)
    turn = torch.tensor([2, 0, 3, 1], device=DEVICE)
    turned = c._replace(features=c.features[turn], labels=c.labels[turn], bands=c.bands[turn])
    assert_same(turned.run(dtype=torch.float64, mode="pixel", seed=1, step=2, sample_ids=ids[turn]), base, 1e-14)
    for other in ({"seed": 2, "step": 2}, {"seed": 1, "step": 3}, {"seed": 1, "step": 2, "sample_ids": ids + 1}):
        changed = c.run(dtype=torch.float64, mode="pixel", **({"sample_ids": ids} | other))
        assert not torch.allclose(changed.prototypes, base.prototypes, atol=1e-4)


def test_momentum_one_moves_only_what_was_never_seen():
    c = case()
    for mode, nested in MODES:
        actual = c.run(mode=mode, nested=nested, momentum=1.0)
        seen = c.updates > 0
        assert torch.equal(actual.prototypes[seen], c.prototypes[seen])
        assert not torch.equal(actual.prototypes, c.prototypes)


def test_what_an_unseen_prototype_held_does_not_matter():
    c = case()
    c = c._replace(updates=torch.zeros_like(c.updates))
    for mode, nested in MODES:
        broken = c._replace(prototypes=torch.full_like(c.prototypes, float("nan")))
        actual = broken.run(mode=mode, nested=nested)
        expected = c.run(mode=mode, nested=nested)
        hit = actual.updates > 0
        assert hit.any()
        assert not hit.all()
        assert torch.equal(actual.prototypes[hit], expected.prototypes[hit])
        assert actual.prototypes[~hit].isnan().all()  # untouched


def test_nan_and_zero_features():
    c = case(2, 40, 9, 11)
    c = c._replace(updates=torch.ones_like(c.updates))
    c.features[0, :, 2, 3] = 0
    c.features[1, :, 4, 4] *= 1e-20
    for mode, nested in MODES:
        expected = c.run(prototype_ema_.reference, torch.float64, mode=mode, nested=nested)
        assert_same(c.run(mode=mode, nested=nested), expected, 1e-6)
    bands = c.bands.clone()
    bands[0, 1, 1], bands[0, 5, 5] = 1, 0
    labels = c.labels.clone()
    labels[0, 1, 1] = 1
    features = c.features.clone()
    features[0, 3, 1, 1], features[0, :, 5, 5] = float("nan"), float("nan")
    c = c._replace(features=features, labels=labels, bands=bands)
    actual = c.run()
    assert actual.prototypes[1, 0].isnan().all()
    assert actual.prototypes.isnan().any(2).sum() == 1  # band 0 is not read, other cells are not hit
    assert_same(actual, c.run(prototype_ema_.reference, torch.float64), 1e-6)


def test_layouts():
    c = case(2, 24, 13, 37)
    for mode, nested in MODES:
        expected = c.run(prototype_ema_.reference, torch.float64, mode=mode, nested=nested)
        for name, features in layouts(c.features).items():
            for labels, bands in zip(layouts(c.labels).values(), layouts(c.bands).values(), strict=True):
                actual = c._replace(features=features, labels=labels, bands=bands).run(mode=mode, nested=nested)
                torch.testing.assert_close(actual.prototypes.double(), expected.prototypes, rtol=0, atol=1e-6, msg=name)
    strided = c.prototypes.transpose(0, 2).contiguous().transpose(0, 2)
    counts = c.updates.t().contiguous().t()
    prototype_ema_(strided, counts, c.features, c.labels, c.bands)
    assert torch.equal(strided, c.run().prototypes)
    assert torch.equal(counts, c.run().updates)


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_label_dtypes_and_what_labels_hold_outside_bands(dtype):
    c = case()
    expected = c.run(mode="pixel")
    labels = c.labels.to(dtype)
    if dtype != torch.uint8:
        labels[c.bands == 0] = -(2**31)
    actual = c._replace(labels=labels, bands=c.bands.to(dtype)).run(mode="pixel")
    assert torch.equal(actual.prototypes, expected.prototypes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    c = case(dtype=dtype)
    plain = c.run(mode="pixel")
    with torch.autocast(DEVICE.type, dtype):
        assert torch.equal(c.run(mode="pixel").prototypes, plain.prototypes)


def test_autograd_never_hears_of_it():
    c = case()
    features = c.features.clone().requires_grad_()
    p, u = torch.nn.Parameter(c.prototypes.clone()), c.updates.clone()
    loss = (features * 2).sum()
    prototype_ema_(p, u, features * 2, c.labels, c.bands)
    assert p.is_leaf
    assert p.grad_fn is None
    loss.backward()
    assert torch.equal(features.grad, torch.full_like(features, 2))
    assert torch.equal(p, c._replace(features=c.features * 2).run().prototypes)


def test_equal_bits_between_runs_and_for_any_number_of_threads():
    c = case(2, 40, 70, 65)
    before = torch.get_num_threads()
    for mode, nested in MODES:
        results = []
        for threads in (before, 1, 2, 3):
            torch.set_num_threads(threads)
            results.append(c.run(mode=mode, nested=nested).prototypes)
        torch.set_num_threads(before)
        assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="instruction sets are a matter of the CPU")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_other_instruction_sets(isa):
    # The suite itself runs the best variant of this machine; the choice is made once per process.
    names = "(on_every_shape and pixel) or layouts or nan_and_zero"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", names]
    done = subprocess.run(command, env=os.environ | {"DGSEG_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_opcheck():
    c = case(2, 20, 5, 7)
    ids = torch.arange(2, device=DEVICE)
    scales = torch.rand(4, 3, dtype=torch.float64, generator=generator()).to(DEVICE)
    fades = scales > 0.5
    powers = 0.9 ** torch.arange(10, dtype=torch.float64, device=DEVICE)
    for nested in (False, True):
        for limit in (0, 10):
            arguments = (ids, 3, 4, 4, 3, nested, limit)
            opcheck("prototype_ema_ranks", c.labels, c.bands, *arguments)
            opcheck("prototype_ema_ranks", c.labels.long().mT.contiguous().mT, c.bands[:, :, ::1], *arguments)
            ranks = torch.ops.dgseg.prototype_ema_ranks(c.labels, c.bands, *arguments)[1]
            for features in layouts(c.features).values():
                opcheck("prototype_weighted_sums", features, c.labels, c.bands, ranks, scales, fades, powers, nested)


@pytest.mark.parametrize(("mode", "nested"), MODES)
def test_compiles_without_a_graph_break(mode, nested):
    c = case()
    function = compiled(prototype_ema_)
    for step in (0, 1, 2):  # a number that changes with every call must not be baked in
        options = {"mode": mode, "nested": nested, "step": step}
        assert_same(c.run(function, **options), c.run(**options), 0)
    larger = case(3, 12, 10, 12)
    assert_same(larger.run(function, mode=mode, nested=nested), larger.run(mode=mode, nested=nested), 0)


def test_compiles_with_inductor():
    c = case()
    function = compiled(lambda *tensors: prototype_ema_(*tensors, mode="pixel", step=5), "inductor")
    assert_same(c.run(function), c.run(mode="pixel", step=5), 1e-7)


def test_forced_reference(monkeypatch):
    c = case()
    expected = c.run(prototype_ema_.reference, mode="pixel")
    monkeypatch.setenv("DGSEG_BACKEND", "reference")
    from dgseg.ops import backends

    assert backends(DEVICE)["prototype_ema_"] == "reference"
    assert torch.equal(c.run(mode="pixel").prototypes, expected.prototypes)


# ---- process groups --------------------------------------------------------------------------------------------

GROUP_OPTIONS: list[dict[str, Any]] = [
    {"mode": mode, "nested": nested, "momentum": momentum, "ids": ids}
    for mode, nested in MODES
    # 0.9: every pixel counts; 0.5: only the newest 41 do, and one sample is on both ranks; 0.0: only the newest one.
    for momentum, ids in ([(0.9, None), (0.5, [5, 1, 9, 0, 5]), (0.0, None)] if mode == "pixel" else [(0.9, None)])
]
# How the batch of five is split over two ranks, and which images hold no pixel in a band.
SPLITS = {(2, 5): (), (3, 5): (0, 1, 2), (5, 5): (), (1, 4): (0, 3)}


def _group_case(split: tuple[int, int], end_has_none: tuple[int, ...], dtype: torch.dtype) -> Case:
    c = case(5, 10, 14, 15, C=3, dtype=dtype)
    c.bands[list(end_has_none)] = 0
    total = split[1]
    tensors = [t[:total] for t in (c.features, c.labels, c.bands)]
    return Case(c.prototypes.to(dtype), c.updates, *tensors)


def _on_rank(rank: int, group: Any) -> list[tuple[Tensor, Tensor]]:
    results = []
    for split, none in SPLITS.items():
        for dtype in (torch.float64, torch.float32):
            c = _group_case(split, none, dtype)
            own = slice(0, split[0]) if rank == 0 else slice(split[0], split[1])
            mine = c._replace(features=c.features[own], labels=c.labels[own], bands=c.bands[own])
            for options in GROUP_OPTIONS:
                kept = {k: v for k, v in options.items() if k != "ids"}
                ids = None if options["ids"] is None else torch.tensor(options["ids"])[own]
                for function in (prototype_ema_, prototype_ema_.reference):
                    done = mine.run(function, sample_ids=ids, group=group, step=4, **kept)
                    results.append((done.prototypes, done.updates))
    return results


@pytest.mark.skipif(DEVICE.type != "cpu", reason="gloo ranks hold their tensors on the CPU")
def test_two_ranks_equal_one_process_on_the_whole_batch():
    ranks = [iter(results) for results in run_ranks(_on_rank)]
    for split, none in SPLITS.items():
        for dtype in (torch.float64, torch.float32):
            c = _group_case(split, none, dtype)
            for options in GROUP_OPTIONS:
                kept = {k: v for k, v in options.items() if k != "ids"}
                ids = None if options["ids"] is None else torch.tensor(options["ids"])[: split[1]]
                for function in (prototype_ema_, prototype_ema_.reference):
                    expected = c.run(function, sample_ids=ids, step=4, **kept)
                    first, second = (c._replace(prototypes=p, updates=u) for p, u in map(next, ranks))
                    assert torch.equal(first.prototypes, second.prototypes)
                    assert_same(first, expected, 1e-12 if dtype == torch.float64 else 1e-6)


# ---- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"prototypes": torch.zeros(4, 12)}, {}, "must have 3 dimensions"),
        ({"prototypes": torch.zeros(4, 3, 12, dtype=torch.bfloat16)}, {}, "must be float32, float64"),
        ({"prototypes": torch.zeros(0, 3, 12)}, {}, "hold nothing"),
        ({"prototypes": torch.zeros(4, 3, 8)}, {}, "project the features to 8 channels"),
        ({"updates": torch.zeros(4, 3)}, {}, "must be int64"),
        ({"updates": torch.zeros(3, 4, dtype=torch.long)}, {}, r"updates must have shape \[4, 3\]"),
        ({"features": torch.zeros(2, 12, 9, 11, dtype=torch.int32)}, {}, "features must be float32"),
        ({"features": [1.0]}, {}, "must be a tensor"),
        ({"labels": torch.zeros(2, 18, 22, dtype=torch.uint8)}, {}, r"labels must have shape \[2, 9, 11\]"),
        ({"labels": torch.zeros(2, 9, 11)}, {}, "labels must be uint8"),
        ({"bands": torch.zeros(2, 9, 12, dtype=torch.uint8)}, {}, r"bands must have shape \[2, 9, 11\]"),
        ({"bands": torch.zeros(2, 9, 11, device="meta", dtype=torch.uint8)}, {}, "one device"),
        ({}, {"momentum": 1.5}, r"momentum must lie in \[0, 1\]"),
        ({}, {"momentum": float("nan")}, r"momentum must lie in \[0, 1\]"),
        ({}, {"mode": "mean"}, 'mode must be "batch_mean" or "pixel"'),
        ({}, {"seed": 2**63}, "seed must be a 64-bit integer"),
        ({}, {"sample_ids": torch.zeros(3, dtype=torch.long)}, r"sample_ids must have shape \[2\]"),
        ({}, {"sample_ids": torch.zeros(2)}, "sample_ids must be int64"),
    ],
)
def test_bad_input_says_what_to_change(change, options, message):
    def here(value: Any) -> Any:
        return value.to(DEVICE) if isinstance(value, Tensor) and value.device.type != "meta" else value

    c = case()._replace(**{name: here(value) for name, value in change.items()})
    with pytest.raises(ValueError, match=message):
        prototype_ema_(*c, **{name: here(value) for name, value in options.items()})


@pytest.mark.parametrize("mode", ["batch_mean", "pixel"])
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_values_that_name_no_cell(dtype, mode, monkeypatch):
    monkeypatch.setenv("DGSEG_DEBUG", "1" if DEVICE.type == "cuda" else "0")
    c = case()
    c.bands[1, 3, 4] = 2
    for value in (200, 4) if dtype == torch.uint8 else (200, 4, -1, 2**31 - 1):
        wrong = c.labels.to(dtype)
        wrong[1, 3, 4] = value
        for function in (prototype_ema_, prototype_ema_.reference):
            if function is prototype_ema_.reference:
                monkeypatch.setenv("DGSEG_BACKEND", "reference")
            with pytest.raises((ValueError, RuntimeError), match=f"labels hold {value} at batch index 1 inside a band"):
                c._replace(labels=wrong).run(prototype_ema_, mode=mode)
        monkeypatch.delenv("DGSEG_BACKEND")
    bands = c.bands.to(dtype)
    bands[1, 0, 0] = 4
    for backend in ("", "reference"):
        monkeypatch.setenv("DGSEG_BACKEND", backend)
        with pytest.raises(
            (ValueError, RuntimeError), match=r"bands hold 4 at batch index 1; valid: 0 \(no band\) to 3"
        ):
            c._replace(bands=bands).run(mode=mode)


def test_wrong_values_do_no_harm_to_the_sums():
    # Direct calls, and GPUs without DGSEG_DEBUG: such pixels count as being in no band.
    c = case(C=4, G=3)
    scales = torch.ones(4, 3, dtype=torch.float64, device=DEVICE)
    ranks = torch.empty(0, *c.labels.shape, dtype=torch.int32, device=DEVICE)
    rest = (ranks, scales, scales > 2, torch.empty(0, dtype=torch.float64, device=DEVICE), False)
    labels, bands, cleared = c.labels.long(), c.bands.long(), c.bands.long()
    labels[0, 0], bands[1, 1] = 10**12, -3
    cleared[0, 0], cleared[1, 1] = 0, 0
    actual = torch.ops.dgseg.prototype_weighted_sums(c.features, labels, bands, *rest)
    expected = torch.ops.dgseg.prototype_weighted_sums(c.features, c.labels, cleared, *rest)
    assert torch.equal(actual, expected)
