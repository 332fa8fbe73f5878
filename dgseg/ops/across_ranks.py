"""What the ranks of a process group tell each other: rows of a few numbers, from everybody to everybody.

Every rank has the same bits of a sum. Between processes of one machine rows can go through memory that they share
(`share_memory`, csrc/shared_rows): a socket costs .5 to 4 ms, and a step of a model with batch norms has dozens of
exchanges.
"""

import os
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

try:
    from dgseg._host import SharedRows
except ImportError:  # no headers of Python where it was built: sockets do it
    SharedRows = None  # type: ignore[assignment, misc]

CAPACITY = 1 << 16  # bytes of a row; longer ones gain nothing
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # torch 2.14 renamed it


class _Shared(NamedTuple):
    rows: "SharedRows"
    timeout: float


_shared: WeakKeyDictionary[dist.ProcessGroup, _Shared] = WeakKeyDictionary()


def gather(row: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """[k] of this rank -> [ranks, k] in rank order, the same on every rank. No gradient."""
    if group is None:
        return row.detach()[None]
    row = row.detach().contiguous()
    gathered = row.new_empty(dist.get_world_size(group), row.numel())
    shared = _through_memory(row, group)
    if shared is None:
        _all_gather(gathered.view(-1), row, group=group)
    else:  # as bytes: numpy has no bfloat16
        own, all_ranks = row.view(torch.uint8).numpy(), gathered.view(torch.uint8).numpy()
        shared.rows.gather(own, all_ranks, timeout=shared.timeout)
    return gathered


def total(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The sum over the ranks, of any shape. No gradient."""
    if group is None:
        return values.detach()
    if _through_memory(values, group) is not None:
        return gather(values.flatten(), group).sum(0, dtype=values.dtype).view(values.shape)
    summed = values.detach().clone()
    dist.all_reduce(summed, group=group)
    return summed


def mean(loss_sum: Tensor, count: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """world_size × local sum / global count: averaged over the ranks, this is the mean over all of them. With the
    gradient of this rank's sum."""
    world = 1 if group is None else dist.get_world_size(group)
    return loss_sum * world / total(count, group).clamp(min=1)


def _through_memory(values: Tensor, group: dist.ProcessGroup) -> "_Shared | None":
    if torch.compiler.is_compiling() or not values.is_cpu or values.nbytes > CAPACITY:
        return None
    return _shared.get(group)


def share_memory(group: dist.ProcessGroup, timeout: float = 600.0) -> bool:
    """Lets `gather` go through shared memory from now on, where all ranks are processes of this machine and may look
    at each other. A collective: False on every rank, and nothing changed, where one of them may not.

    Not for compiled code: what a compiler finds of `gather` in a graph goes through sockets."""
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    name = f"dgseg-rows-{os.urandom(8).hex()}"
    own = _memory(name, size) if rank == 0 else -1
    told: list[tuple[int, int, str]] = [(-1, -1, "")] * size
    dist.all_gather_object(told, (os.getpid(), own, name), group=group)
    first, file, name = told[0]
    rows = _rows(f"/proc/{first}/fd/{file}", name, rank, [process for process, _, _ in told]) if file >= 0 else None
    agreed = [False] * size
    dist.all_gather_object(agreed, rows is not None, group=group)  # then all have opened it
    if own >= 0:
        os.close(own)
    if rows is not None and all(agreed):
        _shared[group] = _Shared(rows, timeout)
        return True
    return False


def share_no_memory(group: dist.ProcessGroup) -> None:
    """Sockets again. Every rank has to say so, at the same place."""
    _shared.pop(group, None)


def _memory(name: str, size: int) -> int:
    """A file without a name in any folder, which ends with its last user, however that ends; -1 where there is none."""
    if SharedRows is None or not hasattr(os, "memfd_create"):
        return -1
    try:
        file = os.memfd_create(name)
    except OSError:  # an old kernel, or a sandbox
        return -1
    try:
        os.truncate(file, SharedRows.bytes(size, CAPACITY))
    except OSError:  # a limit of file sizes
        os.close(file)
        return -1
    return file


def _rows(path: str, name: str, rank: int, processes: list[int]) -> "SharedRows | None":
    """None where that file is another machine's or container's, or another user's."""
    try:
        if SharedRows is None or name not in os.readlink(path):
            return None
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return SharedRows(file=file, rank=rank, processes=processes, capacity=CAPACITY)
    except RuntimeError:
        return None
    finally:
        os.close(file)
