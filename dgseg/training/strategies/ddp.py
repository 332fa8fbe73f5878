"""Every worker holds everything; gradients are averaged while the backward pass still runs."""

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dgseg.data.sample import Batch
from dgseg.objectives.base import StepContext
from dgseg.training.strategies.base import Strategy


class DataParallel(Strategy):
    def wrap(self) -> nn.Module:
        # No buffers are sent: batch norms and objectives keep theirs equal by themselves. torch 2.14 renamed this.
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        unsent: dict[str, Any] = {name: False}
        return DistributedDataParallel(
            self.learner, process_group=self.world.group, gradient_as_bucket_view=True, **unsent
        )

    def terms(self, batch: Batch, context: StepContext, last: bool) -> dict[str, Tensor]:
        assert isinstance(self.wrapped, DistributedDataParallel)
        # What the forward pass finds here decides whether the backward pass averages.
        self.wrapped.require_backward_grad_sync = last
        return super().terms(batch, context, last)
