"""Every worker holds everything; gradients are averaged while the backward pass still runs."""

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dgseg.data.sample import Batch
from dgseg.objectives.base import StepContext
from dgseg.training.strategies.base import Strategy


class DataParallel(Strategy):
    def wrap(self) -> nn.Module:
        # No buffers are sent: batch norms and objectives keep theirs equal by themselves.
        return DistributedDataParallel(
            self.learner, process_group=self.world.group, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def terms(self, batch: Batch, context: StepContext, last: bool) -> dict[str, Tensor]:
        assert isinstance(self.wrapped, DistributedDataParallel)
        # What the forward pass finds here decides whether the backward pass averages.
        self.wrapped.require_backward_grad_sync = last
        return super().terms(batch, context, last)
