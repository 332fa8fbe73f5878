"""Three ranks, through sockets and through shared memory: the same numbers, and no socket where memory will do."""

import errno
import os
import signal
import time
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from dgseg.ops import across_ranks
from tests.ops.harness import run_ranks

SIZES = {"nothing": 0, "one": 1, "odd": 37, "a row full": across_ranks.CAPACITY // 8, "too long": 20_000}
KINDS = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8]


def rows(rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return {
        f"{name} {kind}": (100 * torch.rand(size, generator=generator, dtype=torch.float64)).to(kind)
        for name, size in SIZES.items()
        for kind in KINDS
    } | {"strided": torch.rand(6, 4, generator=generator)[:, 1]}


def everything(rank: int, group: dist.ProcessGroup) -> dict[str, Tensor]:
    found = {}
    for name, row in rows(rank).items():
        found[f"gather {name}"] = across_ranks.gather(row, group)
        found[f"total {name}"] = across_ranks.total(row, group)
    grid = torch.arange(6.0).view(2, 3) + rank
    found["total of a grid"] = across_ranks.total(grid, group)
    loss = torch.tensor([2.0 + rank, 5.0], requires_grad=True)
    mean = across_ranks.mean(loss, torch.tensor([rank, 0]), group)
    mean.sum().backward()
    assert loss.grad is not None
    return found | {"mean": mean.detach(), "gradient of the mean": loss.grad}


def both_ways(rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    sockets = everything(rank, group)
    with patch.object(across_ranks, "SharedRows", None if rank == 1 else across_ranks.SharedRows):
        refused = across_ranks.share_memory(group)  # by one is by all
    after = everything(rank, group)
    shared = across_ranks.share_memory(group, timeout=60)
    small = {name: row for name, row in rows(rank).items() if row.nbytes <= across_ranks.CAPACITY}
    with (
        patch.object(dist, "all_reduce", side_effect=AssertionError),
        patch.object(across_ranks, "_all_gather", side_effect=AssertionError),
    ):
        for _ in range(500):
            for row in small.values():
                across_ranks.gather(row, group)
    return {"sockets": sockets, "refused": refused, "after": after, "shared": shared, "memory": everything(rank, group)}


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return run_ranks(both_ways, world=3)


def test_memory_is_shared_by_all_or_by_none(found: list[dict[str, Any]]) -> None:
    assert [one["refused"] for one in found] == [False] * 3
    assert [one["shared"] for one in found] == [True] * 3


@pytest.mark.parametrize("way", ["sockets", "after", "memory"])
def test_rows_and_totals(way: str, found: list[dict[str, Any]]) -> None:
    expected = [rows(rank) for rank in range(3)]
    for one in found:
        for name, row in expected[0].items():
            stacked = torch.stack([each[name] for each in expected])
            assert torch.equal(one[way][f"gather {name}"], stacked), name
            summed = one[way][f"total {name}"]
            assert summed.dtype == row.dtype
            assert torch.equal(summed, found[0][way][f"total {name}"]), name
            if row.dtype != torch.uint8:  # which wraps
                close = {"rtol": 0.02, "atol": 0.0} if row.dtype == torch.bfloat16 else {}
                torch.testing.assert_close(summed, stacked.sum(0), **close)
        assert torch.equal(one[way]["total of a grid"], torch.arange(6.0).view(2, 3) * 3 + 3)


@pytest.mark.parametrize("way", ["sockets", "memory"])
def test_mean(way: str, found: list[dict[str, Any]]) -> None:
    """Averaged over the ranks: the sum of all over the count of all, 0 + 1 + 2; nothing counted is divided by 1."""
    mean = torch.stack([one[way]["mean"] for one in found]).mean(0)
    torch.testing.assert_close(mean, torch.tensor([(2.0 + 3 + 4) / 3, 15.0]))
    for one in found:
        torch.testing.assert_close(one[way]["gradient of the mean"], torch.tensor([1.0, 3.0]))


def test_alone() -> None:
    row = torch.rand(4, requires_grad=True)
    assert torch.equal(across_ranks.gather(row, None), row[None])
    assert torch.equal(across_ranks.total(row, None), row)
    assert not across_ranks.total(row, None).requires_grad
    assert across_ranks.mean(torch.tensor(6.0), torch.tensor(3), None) == 2.0


def test_memory_of_somebody_else_is_not_opened() -> None:
    other = os.memfd_create("somebody-else")
    try:
        assert across_ranks._rows(f"/proc/{os.getpid()}/fd/{other}", "dgseg-rows-1", 0, [os.getpid()]) is None
        assert across_ranks._rows(f"/proc/{os.getpid()}/fd/999999", "dgseg-rows-1", 0, [os.getpid()]) is None
    finally:
        os.close(other)


def without_memory(rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    refused = OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    with patch.object(os, "memfd_create", side_effect=refused):
        kernel = across_ranks.share_memory(group)
    with patch.object(os, "truncate", side_effect=refused):
        limit = across_ranks.share_memory(group)
    shared = across_ranks.share_memory(group)
    across_ranks.share_no_memory(group)
    with patch.object(dist, "all_reduce", side_effect=dist.all_reduce) as sockets:
        total = across_ranks.total(torch.ones(3), group)
    return {"kernel": kernel, "limit": limit, "shared": shared, "total": total, "sockets": sockets.call_count}


def test_where_there_is_no_memory_or_none_is_wanted_sockets_do_it() -> None:
    for one in run_ranks(without_memory):
        assert (one["kernel"], one["limit"], one["shared"]) == (False, False, True)
        assert torch.equal(one["total"], torch.full((3,), 2.0))
        assert one["sockets"] == 1


def one_dies(rank: int, group: dist.ProcessGroup, folder: str) -> None:
    assert across_ranks.share_memory(group, timeout=300)
    across_ranks.gather(torch.ones(3), group)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who started the processes ends the others as soon as one is gone
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.perf_counter()
    try:
        across_ranks.gather(torch.ones(3), group)
    except RuntimeError as error:
        with open(f"{folder}/{rank}", "w") as file:
            file.write(f"{time.perf_counter() - began} {error}")


def test_a_rank_that_is_killed_is_noticed(tmp_path: Any) -> None:
    with pytest.raises(torch.multiprocessing.ProcessExitedException):
        run_ranks(one_dies, str(tmp_path), world=3)
    for rank in (0, 1):
        seconds, text = (tmp_path / str(rank)).read_text().split(maxsplit=1)
        assert float(seconds) < 5
        assert "rank 2 (process" in text
        assert "has ended" in text
