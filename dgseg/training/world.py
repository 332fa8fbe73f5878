"""Which of how many workers this process is. A launcher (none, torchrun, Ray) says so; the loop never asks which."""

import datetime
import os
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    local_rank: int
    device: torch.device
    group: dist.ProcessGroup | None  # None: alone; the operators then skip their collectives

    @property
    def first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.group is not None:
            dist.barrier(self.group)


def join(device: Literal["auto", "cpu", "cuda"] = "auto", timeout: float = 600.0) -> World:
    """This process's place. Under torchrun, or with a process group that a launcher has made, among the others."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if not dist.is_initialized() and size > 1:
        chosen = _device(device, local_rank)
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            timeout=datetime.timedelta(seconds=timeout),
            device_id=chosen if chosen.type == "cuda" else None,
        )
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
        return World(rank, size, local_rank, _device(device, local_rank), dist.group.WORLD if size > 1 else None)
    return World(0, 1, local_rank, _device(device, local_rank), None)


def _device(device: str, local_rank: int) -> torch.device:
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError(
            "a GPU is asked for and torch sees none: `dgseg doctor` says why. --run.device cpu trains without"
        )
    if device == "cpu" or not available:
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # A launcher that shows each worker its own GPU alone (Ray) leaves one to choose from.
    chosen = torch.device("cuda", local_rank % count)
    torch.cuda.set_device(chosen)
    return chosen
