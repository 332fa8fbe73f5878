"""dgseg.ops.prototype_info_nce: against its float64 reference, and the reference against the formula."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgseg.ops import prototype_ema_, prototype_info_nce
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
    run_ranks,
)

# (N, D, h, w, C, G): why it is here
SHAPES = {
    (1, 1, 1, 1, 1, 1): "one of everything: a softmax of one number",
    (2, 3, 5, 7, 2, 2): "fewer pixels and channels than a vector holds",
    (1, 16, 4, 8, 4, 3): "exactly one panel of AVX-512, one full block of rows",
    (1, 17, 3, 11, 13, 1): "one pixel more than a panel, one prototype more than a block of rows",
    (2, 24, 16, 16, 5, 2): "whole panels, several images",
    (1, 64, 33, 40, 19, 3): "two tasks, the second ragged; three tiles in the first",
    (2, 256, 8, 33, 19, 3): "the bank of the real recipe",
    (1, 1100, 9, 9, 4, 3): "so many channels that a tile holds the least number of pixels",
    (1, 8, 20, 30, 150, 3): "a bank of 150 classes",
}
# Gradients are compared in units of (largest weight) / (temperature · |f| · terms), in which they are at most about 2.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
if DEVICE.type == "cuda":
    TOLERANCE |= {torch.float32: 2e-4}


def case(
    shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, share: float = 0.3, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """features, labels, bands, prototypes, weights, seen; labels are 255 in places where bands are 0."""
    N, D, h, w, C, G = shape
    g = generator(seed)
    labels = label_map(N, h, w, classes=C, ignored=0.1, seed=seed)
    bands = torch.randint(1, G + 1, (N, h, w), generator=g, dtype=torch.uint8)
    bands[torch.rand(N, h, w, generator=g) >= share] = 0
    bands = bands.to(DEVICE)
    if share == 1.0:
        labels[labels == 255] = C - 1
    bands[labels == 255] = 0
    bank_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    prototypes = normal(C, G, D, dtype=bank_dtype, seed=seed + 1, scale=2.0)
    weights = torch.rand(C, G, generator=g, dtype=torch.float64).to(bank_dtype).to(DEVICE)
    seen = (torch.rand(C, G, generator=g) < 0.8).to(DEVICE)
    return normal(N, D, h, w, dtype=dtype, seed=seed), labels, bands, prototypes, weights, seen


def loss_and_gradient(function: Any, features: Tensor, *arguments: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = features.detach().requires_grad_()
    loss = function(leaf, *arguments, **options)
    (loss * 1000).backward()  # so that float16 gradients do not vanish; and a gradient of 1 hides mistakes
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def assert_equals_reference(features: Tensor, *arguments: Tensor, temperature: float = 0.07, **options: Any) -> None:
    labels, bands, prototypes, weights = arguments
    with deterministic_and_poisoned():
        loss, gradient = loss_and_gradient(prototype_info_nce, features, *arguments, temperature=temperature, **options)
    exact = (labels, bands, prototypes.double(), weights.double())
    expected, expected_gradient = loss_and_gradient(
        prototype_info_nce.reference, features.double(), *exact, temperature=temperature, **options
    )
    assert loss.dtype == (torch.float64 if features.dtype == torch.float64 else torch.float32)
    assert gradient.dtype == features.dtype
    assert gradient.stride() == torch.empty_like(features).stride()
    tolerance = TOLERANCE[features.dtype]
    loss_tolerance = 1e-12 if features.dtype == torch.float64 else 1e-5 if features.dtype == torch.float32 else 1e-4
    torch.testing.assert_close(loss.double(), expected, rtol=loss_tolerance, atol=loss_tolerance)
    unit = temperature * features.double().norm(dim=1, keepdim=True) * max(1, int((bands > 0).sum())) / 1000
    assert float(((gradient.double() - expected_gradient) * unit).abs().max()) <= tolerance
    assert (gradient.permute(0, 2, 3, 1)[bands == 0] == 0).all()


def by_formula(f: Tensor, labels: Tensor, bands: Tensor, p: Tensor, w: Tensor, *, temperature, seen, nested) -> float:
    """The definition, pixel by pixel and term by term."""
    N, _, H, W = f.shape
    C, G, _ = p.shape
    total, count = 0.0, 0
    for n in range(N):
        for y in range(H):
            for x in range(W):
                band = int(bands[n, y, x]) - 1
                if band < 0:
                    continue
                label = int(labels[n, y, x])
                v = f[n, :, y, x]

                def similarity(c: int, g: int, v: Tensor = v) -> Tensor:
                    return (v @ p[c, g]) / (v @ v).sqrt() / (p[c, g] @ p[c, g]).sqrt() / temperature

                everyone = sum(similarity(c, g).exp() for c in range(C) for g in range(G) if seen[c, g])
                for g in range(band, G if nested else band + 1):
                    if seen[label, g]:
                        total -= float(w[label, g] * (similarity(label, g).exp() / everyone).log())
                        count += 1
    return total / max(1, count)


@pytest.mark.parametrize("nested", [False, True])
def test_reference_equals_the_formula(nested):
    for seed in range(3):
        *arguments, seen = case((2, 4, 3, 5, 3, 3), dtype=torch.float64, share=0.7, seed=seed)
        options = {"temperature": 0.3, "seen": seen, "nested": nested}
        expected = by_formula(*(a.cpu() for a in arguments), **(options | {"seen": seen.cpu()}))
        assert float(prototype_info_nce.reference(*arguments, **options)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("share", [1.0, 0.3, 0.02])
@pytest.mark.parametrize("nested", [False, True])
def test_equals_reference_on_every_shape(nested, share, dtype):
    for number, shape in enumerate(SHAPES):
        *arguments, seen = case(shape, dtype=dtype, share=share)
        assert_equals_reference(*arguments, nested=nested, seen=seen if number % 2 else None)


@settings(max_examples=40, deadline=None)
@given(
    N=st.integers(1, 3),
    D=st.integers(1, 40),
    h=st.integers(1, 20),
    w=st.integers(1, 40),
    C=st.integers(1, 8),
    G=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    nested=st.booleans(),
    layout=st.sampled_from(["contiguous", "channels_last", "window", "transposed", "every_second_column"]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    temperature=st.sampled_from([0.05, 0.5, 3.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_equals_reference_on_anything(N, D, h, w, C, G, share, nested, layout, dtype, temperature, seed):
    features, *rest, seen = case((N, D, h, w, C, G), dtype=dtype, share=share, seed=seed)
    features = layouts(features)[layout]
    assert_equals_reference(features, *rest, seen=seen, nested=nested, temperature=temperature)


@pytest.mark.parametrize("dtype", FLOATS)
def test_layouts(dtype):
    # Maps in every layout, and features in every layout, with and without a pixel left out.
    for share in (1.0, 0.3):
        features, labels, bands, *bank, seen = case((2, 19, 11, 37, 5, 3), dtype=dtype, share=share)
        for layout in layouts(features).values():
            assert_equals_reference(layout, labels, bands, *bank, seen=seen)
        for some_labels, some_bands in zip(layouts(labels).values(), layouts(bands).values(), strict=True):
            assert_equals_reference(features, some_labels, some_bands, *bank, seen=seen)
    expanded = features[:1, :, :1, :1].expand(2, 19, 11, 37)  # all strides 0
    assert_equals_reference(expanded, labels, bands, *bank)


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_labels_outside_bands_may_be_anything(dtype):
    features, labels, bands, *bank, seen = case((2, 8, 9, 40, 4, 2))
    labels = labels.to(dtype)
    expected = prototype_info_nce(features, labels, bands, *bank, seen=seen)
    for value in (200, 255) if dtype == torch.uint8 else (-1, -100, 255, 2**31 - 1, -(2**31)):
        assert torch.equal(
            prototype_info_nce(features, labels.where(bands > 0, value), bands, *bank, seen=seen), expected
        )


def test_the_length_of_prototypes_does_not_matter():
    *arguments, weights, _ = case((1, 8, 9, 40, 4, 2), dtype=torch.float64)
    expected = prototype_info_nce(*arguments, weights)
    arguments[3] = arguments[3] * torch.rand(4, 2, 1, generator=generator(), dtype=torch.float64).to(DEVICE) * 1e3
    torch.testing.assert_close(prototype_info_nce(*arguments, weights), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_and_tiny_vectors_are_those_of_normalize(dtype):
    features, labels, bands, prototypes, weights, _ = case((1, 8, 4, 8, 4, 2), dtype=dtype, share=1.0)
    features[0, :, 0, 0] = 0
    features[0, :, 1, 1] *= 1e-15
    prototypes[1, 1] = 0
    assert_equals_reference(features, labels, bands, prototypes, weights)


def test_nan_inside_a_band_shows_and_outside_does_not():
    features, labels, bands, *bank, _ = case((1, 8, 9, 40, 4, 2), share=0.5)
    inside, outside = (features.clone(), features.clone())
    at = (bands[0] > 0).nonzero()[3]
    inside[0, 2, at[0], at[1]] = torch.nan
    outside.permute(0, 2, 3, 1)[bands == 0] = torch.nan
    loss, gradient = loss_and_gradient(prototype_info_nce, inside, labels, bands, *bank)
    assert loss.isnan()
    assert gradient[0, :, at[0], at[1]].isnan().all()
    for ours, clean in zip(
        loss_and_gradient(prototype_info_nce, outside, labels, bands, *bank),
        loss_and_gradient(prototype_info_nce, features, labels, bands, *bank),
        strict=True,
    ):
        assert torch.equal(ours, clean)


def test_nothing_left_is_a_zero_with_a_graph():
    features, labels, bands, *bank, seen = case((2, 8, 9, 40, 4, 2))
    for some_bands, some_seen in ((torch.zeros_like(bands), seen), (bands, torch.zeros_like(seen))):
        for function in (prototype_info_nce, prototype_info_nce.reference):
            loss, gradient = loss_and_gradient(function, features, labels, some_bands, *bank, seen=some_seen)
            assert loss == 0
            assert not gradient.any()


def test_only_unseen_own_prototypes_are_left_out():
    # One pixel whose own prototype is unseen: it is neither in the sum nor in the count.
    features, labels, bands, *bank, _ = case((1, 8, 2, 2, 3, 1), share=1.0)
    labels[:] = torch.tensor([[0, 0], [0, 1]], device=DEVICE)
    seen = torch.tensor([[True], [False], [True]], device=DEVICE)
    without = bands.clone()
    without[0, 1, 1] = 0
    expected = prototype_info_nce.reference(features, labels, without, *bank, seen=seen)
    torch.testing.assert_close(prototype_info_nce(features, labels, bands, *bank, seen=seen), expected)


def test_autocast_changes_nothing():
    *arguments, seen = case((1, 16, 9, 40, 4, 2))
    expected = prototype_info_nce(*arguments, seen=seen)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast(DEVICE.type, dtype):
            assert torch.equal(prototype_info_nce(*arguments, seen=seen), expected)


def test_backward_twice_and_no_grad():
    features, *rest, seen = case((2, 16, 9, 40, 4, 2))
    features.requires_grad_()
    loss = prototype_info_nce(features, *rest, seen=seen)
    first = torch.autograd.grad(loss, features, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, features)[0], first)
    with torch.no_grad():
        assert torch.equal(prototype_info_nce(features, *rest, seen=seen), loss.detach())


def test_the_bank_may_move_before_the_backward():
    # Training takes the loss, moves the bank in place (prototype_ema_), and only then goes backward.
    features, labels, bands, prototypes, *rest, seen = case((2, 16, 9, 40, 4, 2))
    _, expected = loss_and_gradient(prototype_info_nce, features, labels, bands, prototypes, *rest, seen=seen)
    for function in (prototype_info_nce, prototype_info_nce.reference):
        leaf, bank = features.clone().requires_grad_(), prototypes.clone()
        loss = function(leaf, labels, bands, bank, *rest, seen=seen)
        bank.mul_(-3).add_(1)
        (gradient,) = torch.autograd.grad(loss * 1000, leaf)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)


def test_a_compiled_step_may_move_the_bank_too():
    # inductor drops a plain copy of a tensor that is later written to: the operator must keep its own.
    features, labels, bands, prototypes, weights, _ = case((2, 8, 6, 7, 3, 1))
    updates = torch.zeros(3, 1, dtype=torch.int64, device=DEVICE)

    def step(features: Tensor, bank: Tensor, updates: Tensor) -> Tensor:
        loss = prototype_info_nce(features, labels, bands, bank, weights)
        prototype_ema_(bank, updates, features.detach(), labels, bands)
        return loss

    _, expected = loss_and_gradient(prototype_info_nce, features, labels, bands, prototypes, weights)
    for backend in ("aot_eager", "inductor"):
        leaf = features.clone().requires_grad_()
        loss = compiled(step, backend)(leaf, prototypes.clone(), updates.clone())
        torch.testing.assert_close(torch.autograd.grad(loss * 1000, leaf)[0], expected)
        leaf, bank = features.clone().requires_grad_(), prototypes.clone()
        loss = compiled(prototype_info_nce, backend)(leaf, labels, bands, bank, weights)
        prototype_ema_(bank, updates.clone(), features, labels, bands)
        torch.testing.assert_close(torch.autograd.grad(loss * 1000, leaf)[0], expected)


def test_compiles_while_the_temperature_changes():
    *arguments, seen = case((1, 8, 5, 6, 3, 2))
    function = compiled(lambda t: prototype_info_nce(*arguments, seen=seen, temperature=t))
    for temperature in (0.07, 0.1, 0.2, 0.5):
        expected = prototype_info_nce(*arguments, seen=seen, temperature=temperature)
        torch.testing.assert_close(function(temperature), expected)


@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float64, 1e-3), (torch.float32, 5e-3)])
def test_small_temperatures_need_the_largest_similarity(dtype, temperature):
    # Differences of hundreds overflow exp unless the very largest similarity is taken off first.
    for seed in range(4):
        *arguments, seen = case((1, 8, 9, 9, 4, 2), dtype=dtype, share=0.8, seed=seed)
        assert_equals_reference(*arguments, temperature=temperature, seen=seen)


def test_unseen_prototypes_may_hold_anything():
    features, labels, bands, prototypes, weights, seen = case((1, 8, 6, 7, 3, 2))
    seen[1, 1] = False
    expected = loss_and_gradient(prototype_info_nce, features, labels, bands, prototypes, weights, seen=seen)
    prototypes[1, 1] = torch.nan
    for function in (prototype_info_nce, prototype_info_nce.reference):
        found = loss_and_gradient(function, features, labels, bands, prototypes, weights, seen=seen)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_second_derivatives_are_refused():
    features, *rest, seen = case((1, 8, 5, 6, 3, 2))
    loss = prototype_info_nce(features.requires_grad_(), *rest, seen=seen)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, features, create_graph=True)


def test_more_classes_than_a_byte_holds():
    labels = label_map(1, 9, 9, classes=256, ignored=0.0)
    features, bands, weights = normal(1, 8, 9, 9), torch.ones_like(labels), torch.ones(300, 1, device=DEVICE)
    bank = normal(300, 1, 8, seed=1)
    expected = prototype_info_nce.reference(features.double(), labels, bands, bank.double(), weights.double())
    torch.testing.assert_close(prototype_info_nce(features, labels, bands, bank, weights).double(), expected)


def test_equal_bits_for_any_number_of_threads_and_every_run():
    *arguments, seen = case((3, 64, 50, 70, 19, 3), share=0.5)
    expected = loss_and_gradient(prototype_info_nce, *arguments, seen=seen)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3, 2):
            torch.set_num_threads(number)
            again = loss_and_gradient(prototype_info_nce, *arguments, seen=seen)
            assert torch.equal(again[0], expected[0])
            assert torch.equal(again[1], expected[1])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="instruction sets are a matter of the CPU")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_other_instruction_sets(isa):
    # The suite itself runs the best variant of this machine; the choice is made once per process.
    names = "(every_shape and 0.3) or (test_layouts and (dtype0 or dtype3)) or zero_and_tiny or nan_inside"
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__, "-k", names]
    done = subprocess.run(command, env=os.environ | {"DGSEG_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.skipif(DEVICE.type != "cpu", reason="Triton's interpreter runs on CPU tensors")
def test_triton_kernels_in_the_interpreter():
    # In its own process: Triton reads TRITON_INTERPRET when it is imported.
    pytest.importorskip("triton")
    file = __file__.replace(".py", "_triton.py")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", file, "-k", "interpreter"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]  # no test selected is an error too
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("nested", [False, True])
def test_gradcheck(nested):
    features, *rest, seen = case((2, 5, 3, 4, 3, 2), dtype=torch.float64, share=0.7)
    features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: prototype_info_nce(f, *rest, seen=seen, nested=nested, temperature=0.3), features
    )


def test_opcheck():
    features, *rest, seen = case((2, 5, 6, 9, 3, 2))
    labels, bands, prototypes, weights = rest
    for layout in layouts(features).values():
        opcheck("prototype_info_nce_forward", layout.detach().requires_grad_(), *rest, seen, 0.07, True)
    opcheck("prototype_info_nce_forward", features, *rest, None, 0.07, False)
    permuted = (layouts(labels)["transposed"], layouts(bands)["transposed"], prototypes.permute(2, 1, 0).contiguous())
    arguments = (*permuted[:2], permuted[2].permute(2, 1, 0), weights, seen)
    opcheck("prototype_info_nce_forward", features, *arguments, 0.07, False)
    *_, log_sum_exp, _bank = torch.ops.dgseg.prototype_info_nce_forward(features, *arguments, 0.07, False)
    grad = torch.ones((), device=DEVICE)
    for layout in layouts(features).values():
        opcheck("prototype_info_nce_backward", grad, layout, *arguments, log_sum_exp, 0.07, False)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(backend):
    *arguments, seen = case((2, 16, 9, 40, 4, 2))
    function = compiled(lambda *a: prototype_info_nce(*a, seen=seen, nested=True) * 2, backend)
    loss, gradient = loss_and_gradient(function, *arguments)
    expected, expected_gradient = loss_and_gradient(prototype_info_nce, *arguments, seen=seen, nested=True)
    torch.testing.assert_close(loss, expected * 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient * 2, rtol=1e-6, atol=1e-9)


def _on_two_ranks(rank: int, group: Any) -> list[tuple[Tensor, Tensor]]:
    results = []
    for function, dtype, empty in GROUP_CASES:
        features, labels, bands, *bank, seen = case((4, 12, 9, 30, 4, 2), dtype=dtype)
        if empty:
            bands[2:] = 0  # the second rank has no valid pixel
        mine = slice(2 * rank, 2 * rank + 2)
        results.append(
            loss_and_gradient(function, features[mine], labels[mine], bands[mine], *bank, seen=seen, group=group)
        )
    return results


GROUP_CASES = [
    (function, dtype, empty)
    for function in (prototype_info_nce, prototype_info_nce.reference)
    for dtype in (torch.float64, torch.float32)
    for empty in (False, True)
]


@pytest.mark.skipif(DEVICE.type != "cpu", reason="gloo ranks on CPU tensors")
def test_two_ranks_equal_one_process():
    first, second = run_ranks(_on_two_ranks)
    for number, (_, dtype, empty) in enumerate(GROUP_CASES):
        features, labels, bands, *bank, seen = case((4, 12, 9, 30, 4, 2), dtype=dtype)
        if empty:
            bands[2:] = 0
        loss, gradient = loss_and_gradient(
            prototype_info_nce.reference, features.double(), labels, bands, *(b.double() for b in bank), seen=seen
        )
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        losses, gradients = zip(first[number], second[number], strict=True)
        # What data parallel training averages.
        torch.testing.assert_close((losses[0] + losses[1]).double() / 2, loss, rtol=tolerance, atol=tolerance)
        mean = torch.cat(gradients).double() / 2
        torch.testing.assert_close(mean, gradient, rtol=tolerance, atol=tolerance * float(gradient.abs().max()) * 3)
        if empty:
            assert losses[1] == 0
            assert not gradients[1].any()


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's peak memory counter")
@pytest.mark.skipif(DEVICE.type != "cpu", reason="measures the memory of a process")
def test_needs_little_more_memory_than_the_gradient():
    script = """
import torch
from dgseg.ops import prototype_ema_, prototype_info_nce
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
torch.set_num_threads(2)
features = torch.randn(4, 256, 128, 128, requires_grad=True)
maps = [torch.randint(1, 4, (4, 128, 128), dtype=torch.uint8) for _ in range(2)]
bank = torch.randn(19, 3, 256), torch.ones(19, 3)
small = torch.randn(1, 256, 8, 8, requires_grad=True)
prototype_info_nce(small, *(m[:1, :8, :8] for m in maps), *bank).backward()  # what is set up once
open("/proc/self/clear_refs", "w").write("5")
before = peak()
prototype_info_nce(features, *maps, *bank).backward()
print((peak() - before) / features.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 1.2


def _bad(**changes: Any) -> dict[str, Any]:
    features, labels, bands, prototypes, weights, seen = case((2, 4, 3, 5, 3, 2))
    good = {"features": features, "labels": labels, "bands": bands, "prototypes": prototypes, "weights": weights}
    return good | {"seen": seen} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(4, 3, 5)}, "features must have 4 dimensions"),
        ({"features": torch.zeros(2, 4, 3, 5, dtype=torch.int32)}, "features must be float32"),
        ({"features": torch.zeros(0, 4, 3, 5)}, "skip empty batches"),
        ({"features": torch.zeros(2, 4, 3, 6)}, r"labels must have shape \[2, 3, 6\]"),
        ({"features": torch.zeros(2, 5, 3, 5)}, r"prototypes must have shape \[3, 2, 5\]"),
        ({"labels": torch.zeros(2, 3, 5)}, "labels must be uint8"),
        ({"bands": torch.zeros(2, 3, 5, dtype=torch.int64)}, "bands must be uint8"),
        ({"bands": torch.zeros(2, 3, 4, dtype=torch.uint8)}, "bands must have shape"),
        ({"prototypes": torch.zeros(6, 4)}, "prototypes must have 3 dimensions"),
        ({"prototypes": torch.zeros(0, 2, 4)}, "are no bank"),
        ({"prototypes": torch.zeros(3, 2, 4, requires_grad=True)}, "prototypes get no gradient here"),
        ({"weights": torch.zeros(2, 3)}, "weights must have shape"),
        ({"weights": torch.zeros(3, 2, requires_grad=True)}, "weights get no gradient here"),
        ({"seen": torch.zeros(3, 2)}, "seen must be bool"),
        ({"seen": torch.zeros(2, 3, dtype=torch.bool)}, "seen must have shape"),
        ({"weights": torch.zeros(3, 2, device="meta")}, "one device"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"features": [[1.0]]}, "features must be a tensor"),
    ],
)
def test_bad_input_says_what_to_change(changes, message):
    moved = {k: v.to(DEVICE) if isinstance(v, Tensor) and v.device.type == "cpu" else v for k, v in changes.items()}
    with pytest.raises(ValueError, match=message):
        prototype_info_nce(**_bad(**moved))


@pytest.mark.parametrize("function", [prototype_info_nce, prototype_info_nce.reference])
def test_bad_labels_and_bands_are_named(function, monkeypatch):
    monkeypatch.setenv("DGSEG_DEBUG", "1")  # a GPU looks at values only then
    arguments = _bad(bands=torch.zeros(2, 3, 5, dtype=torch.uint8, device=DEVICE))
    arguments["labels"] = arguments["labels"].long()
    arguments["bands"][1, 1, 1] = 1
    for value in (3, 255, -1, 2**40):
        arguments["labels"][1, 1, 1] = value
        with pytest.raises((ValueError, RuntimeError), match=f"labels hold {value} at batch index 1 where bands > 0"):
            function(**arguments)
    arguments["labels"][1, 1, 1] = 0
    arguments["bands"][1, 1, 1] = 3
    with pytest.raises((ValueError, RuntimeError), match="bands hold 3 at batch index 1; prototypes have 2 per class"):
        function(**arguments)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="CPU kernels raise instead")
def test_bad_labels_are_harmless_on_a_gpu():
    features, labels, bands, *bank, _ = case((2, 8, 9, 40, 4, 2))
    expected = prototype_info_nce(features, labels, bands, *bank)
    wrong = bands == 0
    labels = labels.long().where(~wrong, 2**40)
    assert torch.equal(prototype_info_nce(features, labels, bands.where(~wrong, 1), *bank), expected)
    assert torch.equal(prototype_info_nce(features, labels.where(~wrong, 0), bands.where(~wrong, 3), *bank), expected)
