"""What the operator tests share: the device, inputs, poisoned memory, compile checks and two-rank runs."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

DEVICE = torch.device(os.environ.get("DGSEG_DEVICE", "cpu"))
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LABEL_DTYPES = (torch.uint8, torch.int32, torch.int64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def label_map(
    N: int, H: int, W: int, *, classes: int = 19, ignored: float = 0.05, block: int = 8, seed: int = 0
) -> Tensor:
    """Blocks of one class with ragged borders, and a share of ignored pixels (255); uint8 on DEVICE."""
    g = generator(seed)
    coarse = torch.randint(0, classes, (N, H // block + 2, W // block + 2), generator=g, dtype=torch.uint8)
    y = (torch.arange(H)[:, None] + torch.randint(0, 3, (H, W), generator=g)) // block
    x = (torch.arange(W)[None, :] + torch.randint(0, 3, (H, W), generator=g)) // block
    labels = coarse[:, y, x]
    labels[torch.rand(N, H, W, generator=g) < ignored] = 255
    return labels.to(DEVICE)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * scale).to(dtype).to(DEVICE)


@contextlib.contextmanager
def deterministic_and_poisoned() -> Iterator[None]:
    """use_deterministic_algorithms(True), under which torch also fills every fresh allocation with NaN (or the
    largest integer): a kernel that reads what it did not write shows at once."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same values in the memory layouts that a kernel must not mind."""
    found = {"contiguous": tensor.contiguous()}
    if tensor.dim() == 4:
        found["channels_last"] = tensor.contiguous(memory_format=torch.channels_last)
    # A window into a larger tensor: every stride is unusual and the storage offset is not 0.
    padded = tensor.new_zeros([s + 3 for s in tensor.shape])
    window = padded[tuple(slice(2, 2 + s) for s in tensor.shape)]
    window.copy_(tensor)
    found["window"] = window
    found["transposed"] = tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    found["every_second_column"] = tensor.repeat_interleave(2, dim=-1)[..., ::2]
    for layout in found.values():
        assert torch.equal(layout, tensor)
    return found


def compiled(function: Callable[..., Any], backend: str = "aot_eager") -> Callable[..., Any]:
    """torch.compile(fullgraph=True). aot_eager traces and functionalises like inductor, without its C++ compiler."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


def opcheck(operator: str, *args: Any) -> None:
    """Schema (mutation and aliasing), fake tensors and autograd registration of torch.ops.dgseg.<operator>."""
    torch.library.opcheck(getattr(torch.ops.dgseg, operator).default, args)


def _rank_main(rank: int, world: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        torch.save(function(rank, dist.group.WORLD, *args), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_ranks(function: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """Calls function(rank, group, *args) in `world` gloo processes; what each returned. `function` must be a
    module-level function. Starting processes costs seconds: put several checks into one call."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank_main, (world, folder, function, args), nprocs=world)
        return [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(world)]
