"""Elastic runs: as many workers as the cluster has room for, of the numbers that share a batch evenly."""

from collections.abc import Sequence
from typing import Any

from ray.train import Result, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy


class EvenScaling(ElasticScalingPolicy):  # type: ignore[misc]
    def __init__(self, scaling: ScalingConfig, sizes: Sequence[int]) -> None:
        super().__init__(scaling)
        self._sizes = sizes

    def _count_possible_workers(self, reserved_resources: list[dict[str, float]]) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        return max((size for size in self._sizes if size <= possible), default=0)


class EvenTrainer(TorchTrainer):  # type: ignore[misc]
    """Ray Train has no public way to bring one's own policy; tests/runs/launch/test_jobs.py would notice a change."""

    def __init__(self, *args: Any, sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sizes = tuple(sizes)

    def _initialize_and_run_controller(self, **kwargs: Any) -> Result:
        kwargs["scaling_policy"] = EvenScaling(self.scaling_config, self._sizes)
        return super()._initialize_and_run_controller(**kwargs)
