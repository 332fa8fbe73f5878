"""Tells whether an output map comes from the source domain or the target (AdaptSegNet, CVPR 2018)."""

from itertools import pairwise

from torch import Tensor, nn


class Discriminator(nn.Module):
    """Softmax of the logits at input resolution [N, C, H, W] in, logits of "this is source" out, at stride 32."""

    minimum = 32

    def __init__(self, num_classes: int = 19, *, width: int = 64) -> None:
        super().__init__()
        self.num_classes = num_classes
        channels = [num_classes, *(width * 2**i for i in range(4))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 4, 2, 1))

    def forward(self, probabilities: Tensor) -> Tensor:
        if probabilities.dim() != 4 or probabilities.shape[1] != self.num_classes:
            raise ValueError(
                f"the discriminator takes probabilities [N, {self.num_classes}, H, W]; they are "
                f"{list(probabilities.shape)}"
            )
        if min(probabilities.shape[-2:]) < self.minimum:
            raise ValueError(
                f"the discriminator needs sides of at least {self.minimum} pixels, and softmax at input resolution; "
                f"it got {probabilities.shape[-2]}x{probabilities.shape[-1]}"
            )
        verdict: Tensor = self.layers(probabilities)
        return verdict


def discriminator(num_classes: int, pretrained: bool | str, *, width: int = 64) -> Discriminator:
    if pretrained:
        raise ValueError("no weights are published for the discriminator: leave pretrained=False")
    return Discriminator(num_classes, width=width)
