"""How long training stands still for a checkpoint: ours beside torch.save, and the copy that it cannot do without."""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgseg.bench.floors import copy_rate
from dgseg.bench.timing import Times
from dgseg.training.checkpoint import Checkpoints
from dgseg.training.storage import LocalStorage

MOST_S = 2.0  # that training may stand still for 85 M parameters
TENSORS = 400  # about as many as a transformer of that size has
WARMING_S = 10.0  # of training before the first save
OURS, TORCH, TORCH_SYNCED = "dgseg", "torch.save", "torch.save, fsync"


@dataclass(frozen=True)
class CheckpointResult:
    parameters: int
    bytes: int
    device: str
    first: float  # seconds that the first save of a run blocks: its buffers are new
    blocked: dict[str, Times]
    written: dict[str, Times]  # from the call until it is on the disk, or for plain torch.save with the kernel
    floor: float  # seconds: every byte read once and written once


def training_state(parameters: int, device: torch.device) -> dict[str, Any]:
    """Weights and AdamW's two moments: 12 bytes per parameter."""
    size = max(parameters // TENSORS, 1)

    def tensors() -> list[Tensor]:
        return [torch.randn(size, device=device) for _ in range(TENSORS)]

    moments = {
        number: {"exp_avg": first, "exp_avg_sq": second, "step": torch.tensor(1.0)}
        for number, (first, second) in enumerate(zip(tensors(), tensors(), strict=True))
    }
    weights = {f"layer{number}.weight": tensor for number, tensor in enumerate(tensors())}
    return {"model": weights, "optimizer": {"state": moments, "param_groups": [{"lr": 6e-5}]}, "step": 1}


def measure(parameters: int, device: torch.device, folder: Path, rounds: int) -> CheckpointResult:
    state = training_state(parameters, device)
    tensors = [*state["model"].values(), *(t for one in state["optimizer"]["state"].values() for t in one.values())]
    size = sum(tensor.nbytes for tensor in tensors)
    with tempfile.TemporaryDirectory(dir=folder, prefix="dgseg-bench-") as place:
        checkpoints = Checkpoints(LocalStorage(Path(place)), keep=1, keep_best=0)
        file = Path(place) / "torch.pt"
        steps = iter(range(rounds + 1))

        def ours() -> tuple[float, float]:
            start = time.perf_counter()
            blocked = checkpoints.save(next(steps), state)
            checkpoints.wait()
            return blocked, time.perf_counter() - start

        def plain(synced: bool) -> tuple[float, float]:
            start = time.perf_counter()
            with file.open("wb") as stream:
                torch.save(state, stream)
                if synced:
                    stream.flush()
                    os.fsync(stream.fileno())
            took = time.perf_counter() - start
            file.unlink()
            return took, took

        checkpoints.reserve(size)  # as a run does when it begins
        time.sleep(WARMING_S)
        first, _ = ours()
        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            OURS: ours,
            TORCH: lambda: plain(False),
            TORCH_SYNCED: lambda: plain(True),
        }
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, run in contenders.items():
                samples[name].append(run())
    blocked = {name: Times.of([one for one, _ in found]) for name, found in samples.items()}
    written = {name: Times.of([one for _, one in found]) for name, found in samples.items()}
    return CheckpointResult(
        parameters, size, str(device), first, blocked, written, 2 * size / copy_rate(torch.device("cpu"), 2 * size)
    )


def text(result: CheckpointResult) -> str:
    lines = [
        "",
        f"{result.parameters / 1e6:g} M parameters and AdamW's moments: {result.bytes / 1e9:.2f} GB on {result.device}",
        f"    {'':20}{'blocked s':>12}{'worst':>10}{'written s':>12}{'worst':>10}",
    ]
    for name, blocked in result.blocked.items():
        written = result.written[name]
        lines.append(f"    {name:20}{blocked.median:12.3f}{blocked.p95:10.3f}{written.median:12.3f}{written.p95:10.3f}")
    lines += [
        f"    {'first save':20}{result.first:12.3f}   into memory that the run reserved when it began",
        f"    {'floor':20}{result.floor:12.3f}   one copy in memory",
    ]
    if result.parameters >= 85_000_000:
        worst = max(result.first, result.blocked[OURS].p95)
        judged = "OK" if worst <= MOST_S else "ABOVE"
        lines.append(f"    target: training stands still for at most {MOST_S:g} s {f'{worst:.2f} s':>14}  {judged}")
    return "\n".join(lines)


def as_json(result: CheckpointResult) -> dict[str, Any]:
    return dataclasses.asdict(result)
