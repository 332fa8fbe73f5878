"""Batch norm over the batches of all workers, on CPUs too, which torch.nn.SyncBatchNorm refuses.

N values per channel and worker, x̂ = (x - mean) / sqrt(var + eps), y = w·x̂ + b with mean and var over all workers.
Forward, one exchange: every worker's N, mean and sum of squared deviations, combined without E[x²] - E[x]².
Backward, one exchange: Σdy and Σdy·x̂, and dx = w/sqrt(var + eps) · (dy - (Σdy + x̂·Σdy·x̂) / ΣN).
The gradients of w and b stay each worker's own: whoever averages gradients over workers adds them up.
"""

import copy
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dgseg.ops import across_ranks


def share_batch_norms(module: nn.Module, group: dist.ProcessGroup | None) -> int:
    """Turns each batch norm inside `module` into one over the group, in place: parameters, buffers, their names and
    hooks stay. How many there are. A norm in eval mode stays as it is until it trains."""
    count = 0
    for name, norm in module.named_modules():
        if not isinstance(norm, _BatchNorm):
            continue
        shared = _SHARED.get(type(norm), type(norm))
        if not issubclass(shared, _SharedBatchNorm):
            raise ValueError(
                f"{name or 'the module'} is a {type(norm).__name__}, whose statistics would stay each worker's own: "
                f"use {' or '.join(plain.__name__ for plain in _SHARED)}, or train with train.sync_batch_norm false"
            )
        norm.__class__ = shared
        assert isinstance(norm, _SharedBatchNorm)
        norm.group = group
        count += 1
    return count


class _SharedBatchNorm(_BatchNorm):
    group: dist.ProcessGroup | None

    def forward(self, input: Tensor) -> Tensor:
        group = self.group
        if group is None or group.size() == 1 or not self.training:
            plain: Tensor = super().forward(input)
            return plain
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        # A compiler would drop the exchanges of a worker without images, which needs their results for nothing.
        apply = _Shared.apply if input.numel() > 0 else torch.compiler.disable(_Shared.apply)
        output, mean, var = apply(input, self.weight, self.bias, self.eps, group)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                share = self._share_of_this_batch()
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_(var.to(self.running_var.dtype), share)
        normed: Tensor = output
        return normed

    def _share_of_this_batch(self) -> Any:
        """In the running statistics. Without a momentum they are the mean of all batches."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / self.num_batches_tracked.to(torch.float64)
        return 0.0 if self.momentum is None else self.momentum

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.group)] = self.group  # which cannot be copied
        copied = self.__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Pickled it is a norm of one process: a group means nothing in another one."""
        return {**self.__dict__, "group": None}


class SharedBatchNorm1d(_SharedBatchNorm, nn.BatchNorm1d):
    pass


class SharedBatchNorm2d(_SharedBatchNorm, nn.BatchNorm2d):
    pass


class SharedBatchNorm3d(_SharedBatchNorm, nn.BatchNorm3d):
    pass


_SHARED: dict[type[nn.Module], type[_SharedBatchNorm]] = {
    nn.BatchNorm1d: SharedBatchNorm1d,
    nn.BatchNorm2d: SharedBatchNorm2d,
    nn.BatchNorm3d: SharedBatchNorm3d,
}


class _Shared(torch.autograd.Function):
    """torch's own kernels do the passes over x: statistics, and norms in eval mode with the statistics of all."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y, and what the running statistics follow: mean and unbiased variance, float64."""
        channels = x.shape[1]
        kind = x.dtype if x.dtype == torch.float64 else torch.float32
        row = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
        if x.numel() > 0:
            zeros = torch.zeros(channels, dtype=kind, device=x.device)
            # The zeros, which a momentum of 0 leaves as they are, make the statistics of bf16 float32.
            mean, var = torch.batch_norm_update_stats(x, zeros, zeros, 0.0)
            count = x.numel() // channels
            row = torch.cat([mean.double(), var.double() * count, row.new_full((1,), count)])
        means, squares, counts = across_ranks.gather(row, group).split([channels, channels, 1], dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        square = (squares + counts * (means - mean).square()).sum(0)
        var = square / total

        norm_mean, norm_var = mean.to(kind), var.to(kind)
        scale = torch.ones_like(norm_mean) if weight is None else weight.to(kind)
        shift = torch.zeros_like(norm_mean) if bias is None else bias.to(kind)
        empty = x.numel() == 0
        y = torch.empty_like(x) if empty else F.batch_norm(x, norm_mean, norm_var, scale, shift, False, 0.0, eps)
        ctx.save_for_backward(x, scale, norm_mean, norm_var, total)
        ctx.eps, ctx.group = eps, group
        ctx.kinds = [None if one is None else one.dtype for one in (weight, bias)]
        unbiased = square / (total - 1).clamp(min=1)
        ctx.mark_non_differentiable(mean, unbiased)
        return y, mean, unbiased

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, var, total = ctx.saved_tensors
        if x.numel() > 0:
            # Of a norm in eval mode: dy·w/sqrt(var + eps), Σdy·x̂ and Σdy.
            dx, by_scale, by_shift = torch.ops.aten.native_batch_norm_backward(
                dy, x, scale, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        else:
            dx, by_scale, by_shift = torch.zeros_like(x), torch.zeros_like(scale), torch.zeros_like(scale)
        sums = across_ranks.total(torch.cat([by_scale, by_shift]).double(), ctx.group)
        if x.numel() > 0:
            gain = -scale.double() / (var.double() + ctx.eps).sqrt() / total
            through_scale, through_shift = (sums.view(2, -1) * gain).to(scale.dtype)
            dx = dx.add_(F.batch_norm(x, mean, var, through_scale, through_shift, False, 0.0, ctx.eps))
        kind, other = ctx.kinds
        return dx, by_scale.to(kind) if kind else None, by_shift.to(other) if other else None, None, None
