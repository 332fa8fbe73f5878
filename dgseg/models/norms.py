"""Instance norms, differentiated rightly. backbones/normed_blocks.py puts them into trunks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.InstanceNorm2d):
    """Whose gradient is right for one image too."""

    def forward(self, x: Tensor) -> Tensor:
        return _with_dense_gradient(super().forward(x))


def instance_norm(x: Tensor) -> Tensor:
    return _with_dense_gradient(F.instance_norm(x))


class _DenseGradient(torch.autograd.Function):
    """torch's instance norm, differentiated on a CPU, reads one image's gradient in the wrong order where that is laid
    out channels last (torch 2.14)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return gradient.contiguous()


def _with_dense_gradient(x: Tensor) -> Tensor:
    found: Tensor = _DenseGradient.apply(x) if x.requires_grad else x
    return found
