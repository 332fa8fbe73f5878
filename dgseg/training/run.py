"""Where and how a recipe runs: nothing here changes the weights it ends with."""

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["auto", "single", "ddp", "fsdp", "deepspeed"]


@dataclass(frozen=True)
class RunConfig:
    name: str | None = None
    """of the run; the same name again resumes it. None: the recipe's name"""
    storage: str = "runs"
    """folder of all runs: a path, on NFS for many machines, or what pyarrow opens (s3://…)"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    strategy: Strategy = "auto"
    """how workers share the model; auto: ddp for several, single for one"""
    deepspeed: str | None = None
    """a DeepSpeed configuration file, taken as it is; None: ZeRO stage 2 with the recipe's batch and precision"""
    keep: int = 2
    """newest checkpoints to keep"""
    keep_best: int = 1
    """best checkpoints on data.validation to keep beside them"""
    log_every: int = 10
    """steps between two reports"""
    timeout: float = 600.0
    """seconds that a worker waits for the others before it gives up"""
    profile: int | None = None
    """trace this many steps, for ui.perfetto.dev, into the run's folder"""
    stop_after: int | None = None
    """stop at this step, save, and leave the rest to a later run of the same name"""

    def __post_init__(self) -> None:
        if self.name is not None and (self.name in ("", ".", "..") or "/" in self.name or "\\" in self.name):
            raise ValueError(f"{self.name!r} is no name of a run: it becomes a folder in the storage, without slashes")
        for name in ("log_every", "profile", "stop_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1 step")
