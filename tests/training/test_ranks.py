"""Processes that work together: they meet, return rank 0's result, and fail or stop as one."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from dgseg.training.failures import WorkerFailed
from dgseg.training.ranks import run_ranks


def add(value: int) -> tuple[int, int, int]:
    total = torch.tensor(value + dist.get_rank())
    dist.all_reduce(total)
    return int(total), dist.get_rank(), torch.get_num_threads()


def fail(rank: int, error: Exception) -> None:
    if dist.get_rank() == rank:
        raise error
    dist.barrier()


def die() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def stop_the_parent() -> None:
    if dist.get_rank() == 0:
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)


def test_ranks_meet_and_the_first_returns():
    assert run_ranks(add, 10, ranks=2, threads=1, device="cpu") == (21, 0, 1)


def test_the_failure_that_explains_the_others_is_raised():
    with pytest.raises(WorkerFailed, match=r"(?s)worker 1 failed:.*labels hold 200") as failed:
        run_ranks(fail, 1, ValueError("labels hold 200"), ranks=2, threads=1, device="cpu")
    assert isinstance(failed.value.error, ValueError)
    with pytest.raises(WorkerFailed, match="worker 1 was killed by SIGKILL") as killed:
        run_ranks(die, ranks=2, threads=1, device="cpu")
    assert killed.value.error is None


def test_a_signal_to_the_parent_reaches_every_rank():
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_ranks(stop_the_parent, ranks=2, threads=1, device="cpu")
    assert time.monotonic() - began < 55
