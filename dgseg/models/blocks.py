"""The few convolutional pieces that several architectures share."""

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormReLU(nn.Sequential):
    """Convolution, batch norm, ReLU; the convolution has no bias, because the norm would remove it."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: int | None = None,
        relu: bool = True,
    ) -> None:
        padding = dilation * (kernel // 2) if padding is None else padding
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def pool(features: Tensor, norm: nn.Module) -> Tensor:
    """The mean of each map [N, C, 1, 1], for `norm` to see next: in training a batch norm of this process alone needs
    two of them."""
    if len(features) == 1 and norm.training and type(norm) is nn.BatchNorm2d:  # synchronised ones are other types
        raise ValueError(
            "a batch norm over pooled 1x1 maps cannot train on one image: give every worker two or more, or share "
            "statistics between workers (train.sync_batch_norm)"
        )
    return features.mean((2, 3), keepdim=True)


def resize_as(features: Tensor, like: Tensor, *, align_corners: bool = False) -> Tensor:
    """Bilinear, to the height and width of another map."""
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)


def kaiming_init(module: nn.Module) -> None:
    """For `apply`: variance-preserving through ReLUs; what BiSeNet and most heads trained from scratch use."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
