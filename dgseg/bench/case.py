"""What one benchmark compares: contenders on one input, a truth to check them against, a floor and targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Outputs = dict[str, Tensor]
Size = Literal["table", "tiny"]
OURS = "dgseg"


@dataclass(frozen=True)
class Contender:
    """`run` is what is timed; `outputs` names what it returned, so that it can be compared with the truth. None: a
    yardstick that computes something else."""

    name: str
    run: Callable[[], Any]
    outputs: Callable[[Any], Outputs] | None


@dataclass(frozen=True)
class Floor:
    """The least that any implementation must do: bytes at the measured copy rate, or arithmetic at the measured
    matmul rate, whichever takes longer; or `run`, timed among the contenders, where a call says it better."""

    why: str
    bytes: int = 0
    flops: int = 0
    run: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Target:
    """speed: `against`'s time over ours, at least `factor`. floor: our time over the floor, at most `factor`.
    memory: our peak extra memory over `against`'s, or over `bytes`, at most `factor`."""

    kind: Literal["speed", "floor", "memory"]
    factor: float
    against: str = ""
    bytes: int = 0

    @property
    def text(self) -> str:
        factor = f"{self.factor:g}x"
        if self.kind == "speed":
            return f"at least {factor} as fast as {self.against}"
        if self.kind == "floor":
            return f"at most {self.factor:.3g}x its floor"
        return f"extra memory at most {factor} {self.against}'s"


@dataclass(frozen=True)
class Case:
    op: str
    title: str
    ours: Contender
    peers: Sequence[Contender]
    truth: Callable[[], Outputs]
    # output -> the largest accepted |error| over the truth's largest magnitude
    tolerances: dict[str, float]
    floor: Floor
    targets: Sequence[Target]
    notes: Sequence[str] = field(default=())


Builder = Callable[[torch.device, Size], Case]


def difference(outputs: Outputs, truth: Outputs, tolerances: dict[str, float]) -> str | None:
    """The first output that is not what it should be, in words; None where all are."""
    for name, tolerance in tolerances.items():
        actual, expected = outputs[name].detach().double(), truth[name].detach().double()
        if actual.shape != expected.shape:
            return f"{name} has shape {list(actual.shape)}, not {list(expected.shape)}"
        if expected.numel() == 0:
            continue
        scale = float(expected.abs().max()) or 1.0
        error = float((actual - expected).abs().max()) / scale
        if not error <= tolerance:  # NaN must fail
            return f"{name} is off by {error:.2e} of its largest magnitude (accepted: {tolerance:.0e})"
    return None
