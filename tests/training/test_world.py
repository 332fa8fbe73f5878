"""Where a process computes. Which GPU is chosen is asked without one: the choice itself needs no device."""

import pytest
import torch

from dgseg.training.world import join


@pytest.mark.parametrize(("local_rank", "gpu"), [(None, 0), ("0", 0), ("1", 1), ("3", 1)])
def test_a_process_alone_takes_the_gpu_of_its_local_rank(
    monkeypatch: pytest.MonkeyPatch, local_rank: str | None, gpu: int
):
    """A study's processes side by side have no process group, and a GPU each."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    world = join("auto")
    assert (world.rank, world.size, world.group) == (0, 1, None)
    assert world.device == torch.device("cuda", gpu)
    assert chosen == [world.device]
