"""Published checkpoints, written down from their patterns alone: names and shapes, and what they compute."""

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def bottlenecks(layers: tuple[int, ...]) -> Shapes:
    """layer1 … layer4 of a ResNet with bottlenecks."""
    shapes: Shapes = {}
    inputs = 64
    for stage, depth in enumerate(layers, start=1):
        width = 32 * 2**stage
        for block in range(depth):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, inputs, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * width, width, 1, 1)
            shapes |= norm(f"{name}.bn1", width) | norm(f"{name}.bn2", width) | norm(f"{name}.bn3", 4 * width)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                shapes |= norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes


def adaptsegnet(layers: tuple[int, ...], classes: int) -> Shapes:
    shapes = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64) | bottlenecks(layers)
    for name, inputs in (("layer5", 1024), ("layer6", 2048)):
        for branch in range(4):
            shapes[f"{name}.conv2d_list.{branch}.weight"] = (classes, inputs, 3, 3)
            shapes[f"{name}.conv2d_list.{branch}.bias"] = (classes,)
    return shapes


def deeplabv3plus_head(low: int, before_last: int, last: int, classes: int) -> Shapes:
    shapes = norm("aspp.img_conv.1", 256) | {"aspp.img_conv.0.weight": (256, last, 1, 1)}
    for branch in range(4):
        side = 3 if branch else 1
        shapes[f"aspp.features.{branch}.0.weight"] = (256, last, side, side)
        shapes |= norm(f"aspp.features.{branch}.1", 256)
    shapes |= {"bot_fine.0.weight": (48, low, 1, 1), "bot_aspp.0.weight": (256, 1280, 1, 1)}
    shapes |= norm("bot_fine.1", 48) | norm("bot_aspp.1", 256)
    shapes |= {"final1.0.weight": (256, 304, 3, 3), "final1.3.weight": (256, 256, 3, 3)}
    shapes |= norm("final1.1", 256) | norm("final1.4", 256)
    shapes |= {"final2.0.weight": (classes, 256, 1, 1), "final2.0.bias": (classes,)}
    shapes |= {"dsn.0.weight": (512, before_last, 3, 3), "dsn.0.bias": (512,)} | norm("dsn.1", 512)
    return shapes | {"dsn.4.weight": (classes, 512, 1, 1), "dsn.4.bias": (classes,)}


def blindnet(layers: tuple[int, ...], classes: int) -> Shapes:
    """No norm in the stem and none after layers: theirs are affine-free."""
    trunk = {"layer0.0.weight": (64, 3, 7, 7)} | bottlenecks(layers)
    heads = {f"ProjectionHead_cls_{i}.proj.0.weight": (256, n, 1, 1) for i, n in enumerate((2048, 304, 256))}
    return trunk | deeplabv3plus_head(256, 1024, 2048, classes) | heads


def filled(shapes: Shapes) -> State:
    """Random, of a size that keeps activations of order one through any depth."""
    random = torch.Generator().manual_seed(0)

    def value(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=random)
        if len(shape) == 4:
            return noise * (1.5 / (shape[1] * shape[2] * shape[3])) ** 0.5
        return noise.abs() * 0.5 + 0.5 if name.endswith(("running_var", "weight")) else noise * 0.1

    return {name: value(name, shape) for name, shape in shapes.items()}


class Oracle:
    """The published forward passes in float64, straight from the state dict."""

    def __init__(self, state: State) -> None:
        self.state = {name: tensor.double() for name, tensor in state.items()}

    def conv(self, x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride, padding, dilation)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        scale = self.state[f"{name}.weight"] / (variance + 1e-5).sqrt()
        return (x - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + self.state[f"{name}.bias"].view(-1, 1, 1)

    def conv_norm_relu(self, x: Tensor, conv: str, norm: str, stride: int = 1, dilation: int = 1) -> Tensor:
        return self.norm(self.conv(x, conv, stride, dilation), norm).relu()

    def bottleneck(self, x: Tensor, name: str, strides: tuple[int, int], dilation: int) -> Tensor:
        """Up to the sum, without its ReLU."""
        y = self.conv_norm_relu(x, f"{name}.conv1", f"{name}.bn1", strides[0])
        y = self.conv_norm_relu(y, f"{name}.conv2", f"{name}.bn2", strides[1], dilation)
        y = self.norm(self.conv(y, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.state:
            x = self.norm(self.conv(x, f"{name}.downsample.0", max(strides)), f"{name}.downsample.1")
        return x + y

    def adaptsegnet(self, x: Tensor, layers: tuple[int, ...], branches: int) -> Tensor:
        x = F.max_pool2d(self.conv_norm_relu(x, "conv1", "bn1", 2), 3, 2, 1, ceil_mode=True)
        for stage, (depth, stride, dilation) in enumerate(zip(layers, (1, 2, 1, 1), (1, 1, 2, 4), strict=True), 1):
            for block in range(depth):
                x = self.bottleneck(x, f"layer{stage}.{block}", (1 if block else stride, 1), dilation).relu()
        rates = (6, 12, 18, 24)[:branches]
        return sum(self.conv(x, f"layer6.conv2d_list.{i}", 1, rate) for i, rate in enumerate(rates))  # type: ignore

    def blindnet(self, x: Tensor, layers: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
        def instance_norm(y: Tensor) -> Tensor:
            variance, mean = torch.var_mean(y, (2, 3), keepdim=True, correction=0)
            return (y - mean) / (variance + 1e-5).sqrt()

        maps = [instance_norm(self.conv(x, "layer0.0", 2))]
        x = F.max_pool2d(maps[0].relu(), 3, 2, 1)
        for stage, (depth, stride, dilation) in enumerate(zip(layers, (1, 2, 2, 1), (1, 1, 1, 2), strict=True), 1):
            for block in range(depth):
                x = self.bottleneck(x, f"layer{stage}.{block}", (1, 1 if block else stride), dilation)
                if stage <= 2 and block == depth - 1:
                    maps.append(x := instance_norm(x))
                x = x.relu()
            low = x if stage == 1 else low  # noqa: F821
        image = self.conv_norm_relu(x.mean((2, 3), keepdim=True), "aspp.img_conv.0", "aspp.img_conv.1")
        parts = [F.interpolate(image, x.shape[2:], mode="bilinear", align_corners=True)]
        for i, rate in enumerate((1, 6, 12, 18)):
            parts.append(self.conv_norm_relu(x, f"aspp.features.{i}.0", f"aspp.features.{i}.1", 1, rate))
        up = self.conv_norm_relu(torch.cat(parts, 1), "bot_aspp.0", "bot_aspp.1")
        fine = self.conv_norm_relu(low, "bot_fine.0", "bot_fine.1")
        up = F.interpolate(up, fine.shape[2:], mode="bilinear", align_corners=True)
        y = self.conv_norm_relu(torch.cat([fine, up], 1), "final1.0", "final1.1")
        y = self.conv_norm_relu(y, "final1.3", "final1.4")
        return self.conv(y, "final2.0"), maps
