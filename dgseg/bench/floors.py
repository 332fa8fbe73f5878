"""What this machine can do at most, measured in the run that reports it: the best of several samples.

The floor of bytes is a copy of as many, timed as the contenders are: on a GPU the launch is part of it, and the rate is
that of this size, not of a copy far larger. To arithmetic on a GPU the launch of an empty kernel is added.
"""

import functools

import torch

from dgseg.bench.case import Floor
from dgseg.bench.timing import clock

SAMPLES = 15


@functools.cache
def launch_seconds(device: torch.device) -> float:
    """Of a kernel that does nothing worth mentioning; 0 where calls are not launched."""
    if device.type != "cuda":
        return 0.0
    one = torch.zeros(1, device=device)
    timer = clock(device)
    timer.settle(one.zero_)
    return min(timer.sample(one.zero_) for _ in range(SAMPLES))


@functools.cache
def copy_rate(device: torch.device, bytes_moved: int) -> float:
    """Bytes read plus bytes written per second, into a buffer that exists."""
    size = max(bytes_moved, 1 << 16) // 2
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timer = clock(device)
    timer.settle(lambda: target.copy_(source))
    return 2 * size / min(timer.sample(lambda: target.copy_(source)) for _ in range(SAMPLES))


@functools.cache
def matmul_rate(device: torch.device) -> float:
    """fp32 FLOP per second of a large square product, at torch's current matmul precision."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    out = torch.empty_like(a)
    timer = clock(device)
    timer.settle(lambda: torch.mm(a, b, out=out))
    return 2 * n**3 / min(timer.sample(lambda: torch.mm(a, b, out=out)) for _ in range(5))


def seconds(floor: Floor, device: torch.device) -> float:
    moved = floor.bytes / copy_rate(device, floor.bytes) if floor.bytes else 0.0
    worked = floor.flops / matmul_rate(device) + launch_seconds(device) if floor.flops else 0.0
    return max(moved, worked)


def words(floor: Floor, device: torch.device) -> str:
    said = []
    if floor.bytes:
        said.append(f"{floor.bytes / 1e6:.1f} MB at {copy_rate(device, floor.bytes) / 1e9:.1f} GB/s")
    if floor.flops:
        said.append(f"{floor.flops / 1e9:.2f} GFLOP at {matmul_rate(device) / 1e9:.0f} GFLOP/s")
    return floor.why + (f": {', '.join(said)}" if said else "")
