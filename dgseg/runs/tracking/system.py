"""Processor, memory, disk, network and GPUs of rank 0's machine, as MLflow's own monitors read them.

MLflow's own loop over these monitors ends for good at the first answer that its server owes, so the loop is ours, and
what it reads waits in a file like every other point.
"""

import time
from contextlib import suppress
from pathlib import Path

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from dgseg.runs.tracking.files import append


class SystemSampler:
    def __init__(self, path: Path, interval: float) -> None:
        """interval: in seconds; 0: no samples."""
        self._path, self._interval = path, interval
        self._due = time.monotonic() if interval else float("inf")
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(Exception):  # no NVIDIA GPU, or no nvidia-ml-py: MLflow raises for both
            self._monitors.append(GPUMonitor())

    def sample_if_due(self, key: str, began: int) -> None:
        """began: when the run did, in milliseconds; a point's step is the seconds since then, also after a restart."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._interval
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        now = time.time_ns() // 1_000_000
        entry = {"kind": "system", "run": key, "step": (now - began) // 1000, "time": now, "values": values}
        append(self._path, entry)
