"""Which of how many ranks this process is, and what they agree on. A launcher (none, torchrun, Ray) starts them; the
loop never asks which."""

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist

T = TypeVar("T")


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

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank; on every rank."""
        values = [value] * self.size
        if self.group is not None:
            dist.all_gather_object(values, value, group=self.group)
        return values

    def agree(self, error: Exception | None) -> None:
        """If any rank has an error, all of them raise it, instead of waiting for that rank."""
        errors = self.gather(error)
        for each in (error, *errors):
            if each is not None:
                raise each

    def from_rank0(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, or its error, on every rank."""
        result: list[Any] = [None, None]
        if self.first:
            try:
                result[0] = make()
            except (ValueError, RuntimeError, OSError) as error:
                if self.group is None:
                    raise
                result[1] = error
        if self.group is not None:
            dist.broadcast_object_list(result, group=self.group)
        if result[1] is not None:
            raise result[1]
        return cast(T, result[0])


def join(device: Literal["auto", "cpu", "cuda"] = "auto", timeout: float = 600.0) -> World:
    """This process as a rank. Under torchrun, or with a process group that a launcher has made, among the others."""
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
        raise ValueError("a GPU is asked for and torch sees none: `dgseg doctor` says why. --device cpu trains without")
    if device == "cpu" or not available:
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # A launcher that shows each worker its own GPU alone (Ray) leaves one to choose from.
    chosen = torch.device("cuda", local_rank % count)
    torch.cuda.set_device(chosen)
    return chosen
