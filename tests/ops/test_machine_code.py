"""What every Triton kernel may cost on a GPU, held where there is none: registers, programs that fit on a
multiprocessor, instructions of the inner loop, width of the loads, and launches of a call.

CI compiles with the Triton that is installed. `make test-slow` compiles with 3.6, too, which common GPU images have,
and for all three GPU generations."""

import functools
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.ops.harness import DEVICE, FLOATS
from tests.ops.test_entropy_weighted_cross_entropy import SHAPES as WEIGHTED_SHAPES
from tests.ops.test_focal_dice import SHAPES as FOCAL_SHAPES

triton = pytest.importorskip("triton")
from tests.ops import machine_code  # noqa: E402
from tests.ops.machine_code import meta  # noqa: E402

FEATURES = (2, 20, 7, 9), (4, 256, 16, 16), (1, 64, 5, 8)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROOT = Path(__file__).resolve().parent.parent.parent
OTHER = "3.6.0"
pytestmark = pytest.mark.skipif(INTERPRETED or DEVICE.type != "cpu", reason="compiles, which needs no GPU")


class Budget(NamedTuple):
    registers: int  # at most
    programs: int  # on a multiprocessor, at least
    loop: int = 10_000  # instructions of the longest inner loop, at most
    wide: int = 0  # loads of 16 bytes a thread, at least


# case -> how often a call launches, forward and backward
LAUNCHES = {
    "entropy-weighted, full size": 5,
    "entropy-weighted, stride 4": 5,
    "entropy-weighted, stride 4, as trained": 8,  # logits into planes twice, the gradient back
    "focal and Dice, full size": 5,
    "focal and Dice, stride 4": 5,
    "focal and Dice, stride 4, as trained": 8,
    "prototypes, batch mean": 7,
    "prototypes, by pixel": 8,
}


@functools.cache
def compiled(capability: int, packages: str = "") -> dict[str, Any]:
    """What every case compiles to, by the Triton in `packages` or the one that is installed."""
    path = os.pathsep.join(part for part in (packages, str(ROOT)) if part)
    command = [sys.executable, "-m", "tests.ops.machine_code", str(capability)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


FULL_SIZE = {
    "_pixels_kernel": Budget(160, 3, 0, wide=20),
    "_backward_kernel": Budget(144, 3, 0, wide=20),
}
ENDS = {
    "_moments_kernel": Budget(96, 5, 150),
    "_loss_kernel": Budget(48, 8, 0, wide=4),
    "_totals_kernel": Budget(88, 5, 115),
}
STRIDE_4 = {"_pixels_upsampled_kernel": Budget(152, 3, 425), "_backward_upsampled_kernel": Budget(255, 8, 190)}
LOSSES = {"_losses_kernel": Budget(64, 8, 90), "_slopes_kernel": Budget(24, 8)}
FOCAL_STRIDE_4 = {"_sums_upsampled_kernel": Budget(128, 4, 450), "_backward_upsampled_kernel": Budget(255, 8, 485)}
PROTOTYPES = {
    "cells_kernel": Budget(56, 8),
    "weights_kernel": Budget(64, 8),
    "weighted_sums_kernel": Budget(240, 1, 1340),
    "move_kernel": Budget(40, 12, 40),
}
BUDGETS: dict[str, dict[str, Budget]] = {
    "entropy-weighted, full size": FULL_SIZE | ENDS,
    "entropy-weighted, stride 4": STRIDE_4 | ENDS,
    "entropy-weighted, stride 4, as trained": STRIDE_4 | ENDS,
    "focal and Dice, full size": LOSSES
    | {"_sums_kernel": Budget(148, 3, 0, wide=10), "_backward_kernel": Budget(126, 4, 0, wide=10)},
    "focal and Dice, stride 4": LOSSES | FOCAL_STRIDE_4,
    "focal and Dice, stride 4, as trained": LOSSES | FOCAL_STRIDE_4,
    "InfoNCE": {"forward_kernel": Budget(168, 3), "backward_kernel": Budget(208, 2)},
    "InfoNCE, as trained": {"forward_kernel": Budget(168, 3), "backward_kernel": Budget(255, 2)},
    "prototypes, batch mean": PROTOTYPES,
    "prototypes, by pixel": PROTOTYPES,
}


# Of Triton 3.6, by the kernel's name: what it makes of the same sources is longer.
OLDER = {
    "_pixels_kernel": Budget(200, 2, 0, wide=20),
    "_backward_kernel": Budget(160, 3, 0, wide=10),
    "_pixels_upsampled_kernel": Budget(196, 2, 750),
    "_sums_kernel": Budget(160, 3, 0, wide=10),
    "_sums_upsampled_kernel": Budget(128, 4, 585),
    "_backward_upsampled_kernel": Budget(255, 8, 655),
    "_moments_kernel": Budget(92, 5, 150),
    "_loss_kernel": Budget(56, 8, 0, wide=4),
    "_totals_kernel": Budget(72, 7, 131),
    "forward_kernel": Budget(188, 2, 430),
    "backward_kernel": Budget(244, 2, 585),
    "cells_kernel": Budget(64, 8),
    "weights_kernel": Budget(64, 8),
    "weighted_sums_kernel": Budget(255, 1, 1315),
    "move_kernel": Budget(40, 12, 40),
} | LOSSES


def check(found: dict[str, Any], budgets: dict[str, dict[str, Budget]]) -> None:
    assert found["cases"].keys() == budgets.keys()
    for case, call in found["cases"].items():
        for kernel in call["kernels"]:
            budget = budgets[case][kernel["kernel"]]
            what = f"{case}: {kernel['kernel']}"
            assert kernel["stack"] <= 8, f"{what} keeps {kernel['stack']} bytes a thread in memory"
            assert kernel["registers"] <= budget.registers, f"{what} takes {kernel['registers']} registers"
            assert kernel["ctas"] >= budget.programs, f"{what}: {kernel['ctas']} programs fit on a multiprocessor"
            assert kernel["loop"] <= budget.loop, f"{what} has {kernel['loop']} instructions in its inner loop"
            wide = kernel["loads"].get("128", 0)
            assert wide >= budget.wide, f"{what} loads 16 bytes {wide} times a thread"


def test_every_kernel_keeps_to_its_budget():
    check(compiled(90), BUDGETS)


def test_a_call_launches_no_more_than_it_must():
    for case, launches in LAUNCHES.items():
        call = compiled(90)["cases"][case]
        names = [kernel["kernel"] for kernel in call["kernels"]] + call["others"]
        assert len(names) <= launches, f"{case} launches {len(names)} times: {', '.join(names)}"


def test_few_kernels_are_compiled_for_many_shapes():
    """Over the shapes and types on which the operator tests compare with the references: on a GPU each specialisation
    is a second or two of compiling before its test runs."""
    from dgseg.ops.entropy_weighted_cross_entropy import triton as entropy_weighted
    from dgseg.ops.focal_dice import triton as focal
    from dgseg.ops.prototype_ema.fused import move

    with machine_code.specialised() as names:
        for dtype in FLOATS:
            for N, C, h, w, H, W in WEIGHTED_SHAPES:
                logits, labels = meta(N, C, h, w, dtype=dtype), meta(N, H, W, dtype=torch.uint8)
                lse, entropy, ce, moments = entropy_weighted.pixels(logits, labels, labels, 255)
                options = lse, entropy, ce, moments[None], 3.0, 0, 0.0, 1e-6, 0, 255
                loss, weights, *_ = entropy_weighted.loss(logits, labels, labels, None, *options)
                entropy_weighted.backward(loss, logits, labels, lse, weights, 255)
            for N, C, h, w, H, W in FOCAL_SHAPES:
                logits, labels = meta(N, C, h, w, dtype=dtype), meta(N, H, W, dtype=torch.uint8)
                sums, lse = focal.sums(logits, labels, 1.0, 255)
                one, other, slopes = focal.losses(sums, sums.view(1, -1), None, 1.0, torch.float32)
                focal.backward(focal.through_losses(one, other, slopes), logits, labels, lse, 1.0, 255)
            for (N, D, h, w), nested, by_pixel in itertools.product(FEATURES, (False, True), (False, True)):
                maps, ids = [meta(N, h, w, dtype=torch.uint8)] * 2, meta(N, dtype=torch.int64)
                bank = meta(4, 3, D), meta(4, 3, dtype=torch.int64)
                move(*bank, meta(N, D, h, w, dtype=dtype), *maps, ids, None, 0, 0, 0.9, by_pixel, nested)
    assert 100 < len(names) <= 250, Counter(names)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("version", [triton.__version__, OTHER])
def test_nothing_spills_on_any_generation_under_either_triton(version, capability, tmp_path_factory):
    folder = ""
    if version != triton.__version__:
        folder = str(tmp_path_factory.getbasetemp() / f"triton-{version}")
        if not Path(folder).exists():
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--target",
                folder,
                f"triton=={version}",
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
    found = compiled(capability, folder)
    assert found["triton"] == version
    if version == OTHER and capability == 90:
        check(found, dict.fromkeys(BUDGETS, OLDER))
    for case, call in found["cases"].items():
        for kernel in call["kernels"]:
            # 16 bytes: the matrix product of the prototypes on sm_80, where a smaller tile would cost more.
            assert kernel["stack"] <= 16, f"{case}: {kernel['kernel']} keeps {kernel['stack']} bytes a thread in memory"
