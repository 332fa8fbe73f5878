"""What every metric here is while it runs: named integer counts. Integers add up in any order and grouping to the same
last digit, so one process, several processes and Ray workers report the same scores."""

from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.distributed


class Tally:
    """Subclasses count into `self.counts` in place and derive their scores from it. `settings` says what was counted:
    only tallies of the same kind and settings add up."""

    def __init__(
        self, counts: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any], device: torch.device | str = "cpu"
    ) -> None:
        self.settings = dict(settings)
        self.counts = {name: torch.zeros(shape, dtype=torch.int64, device=device) for name, shape in counts.items()}

    @property
    def device(self) -> torch.device:
        return next(iter(self.counts.values())).device

    def merge(self, other: Self) -> Self:
        """Adds another process's counts to these."""
        self._check(type(other).__name__, other.settings, "merge")
        for name, count in self.counts.items():
            count += other.counts[name].to(count.device)
        return self

    def all_reduce(self, group: torch.distributed.ProcessGroup | None = None) -> Self:
        """After it every rank of the group holds the counts of all. The counts must be where the group works: NCCL
        adds up on GPUs alone."""
        for count in self.counts.values():
            torch.distributed.all_reduce(count, group=group)
        return self

    def reset(self) -> None:
        for count in self.counts.values():
            count.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings alone: torch.save and torch.load(weights_only=True) carry it."""
        counts = {name: count.cpu().clone() for name, count in self.counts.items()}
        return {"kind": type(self).__name__, "settings": dict(self.settings), "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check(state["kind"], state["settings"], "load")
        for name, count in self.counts.items():
            count.copy_(state["counts"][name])

    def _check(self, kind: str, settings: Mapping[str, Any], verb: str) -> None:
        if kind != type(self).__name__:
            raise ValueError(f"cannot {verb} counts of {kind}: these are counts of {type(self).__name__}")
        if dict(settings) != self.settings:
            raise ValueError(
                f"cannot {verb} counts made with {_words(settings)}: these are made with {_words(self.settings)}"
            )


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "no settings"
