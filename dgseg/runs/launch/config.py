"""On how many machines a recipe runs, and what happens when one is lost."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LaunchConfig:
    on: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: a cluster (--address), or a Ray of its own on this machine"""
    workers: int = 1
    """processes that train together; the results are the same for any number"""
    min_workers: int | None = None
    """Ray: start with as few as these where the cluster has no more, and grow to `workers` later; None: all or none"""
    cpus_per_worker: int | None = None
    """threads of a worker, and the CPUs that Ray sets aside; None: its share of this machine's, 1 on a cluster"""
    gpus_per_worker: int | None = None
    """GPUs that Ray sets aside; None: one where the device is a GPU"""
    failures: int = 3
    """how often lost workers are replaced, going on from the last checkpoint"""
    mlflow: bool = True
    """keep the run in MLflow: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db here"""
    experiment: str = "dgseg"
    """of MLflow, that the run is filed under"""
    address: str | None = None
    """Ray: the cluster to join (auto, host:port); None: RAY_ADDRESS, or else a cluster of its own on this machine"""

    def __post_init__(self) -> None:
        for name in ("workers", "min_workers", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        for name in ("gpus_per_worker", "failures"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}; it cannot be negative")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, above workers, which is {self.workers}")
