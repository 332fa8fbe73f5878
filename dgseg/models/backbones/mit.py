"""Mix Transformer (SegFormer's encoder), b0 to b5. Attribute names are the published checkpoints' key names.

The maps live as tokens [N, H*W, C]; seen as [N, C, H, W] in channels-last order they are the same memory, so that
convolutions and token layers follow each other without a copy. LayerNorm's epsilon is 1e-6 in the blocks and after
each stage, and torch's default 1e-5 in the patch embeddings and behind the attention's reduction: the published
definition has both.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIT_WEIGHTS = "hf:nvidia/mit-{}/pytorch_model.bin"
PATCH_EPS = 1e-5  # patch embeddings and attention reduction
BLOCK_EPS = 1e-6  # blocks and stage outputs


@dataclass(frozen=True)
class MiTSize:
    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)


_WIDE = (64, 128, 320, 512)
MIT_SIZES = {
    "b0": MiTSize((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": MiTSize(_WIDE, (2, 2, 2, 2)),
    "b2": MiTSize(_WIDE, (3, 4, 6, 3)),
    "b3": MiTSize(_WIDE, (3, 4, 18, 3)),
    "b4": MiTSize(_WIDE, (3, 8, 27, 3)),
    "b5": MiTSize(_WIDE, (3, 6, 40, 3)),
}


def tokens(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.flatten(2).transpose(1, 2)


def as_map(x_NLC: Tensor, height: int, width: int) -> Tensor:
    """Channels-last in memory."""
    return x_NLC.reshape(x_NLC.shape[0], height, width, -1).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """Overlapping patches: a strided convolution, then a norm over channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(outputs, eps=PATCH_EPS)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, int, int]:
        # Channels-last from the first layer on; in the later stages the map already is.
        x_NCHW = self.proj(x_NCHW.contiguous(memory_format=torch.channels_last))
        height, width = x_NCHW.shape[-2:]
        normed: Tensor = self.norm(tokens(x_NCHW))
        return normed, height, width


class Attention(nn.Module):
    """Self-attention whose keys and values come from a map reduced by a convolution with kernel = stride."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width, eps=PATCH_EPS)

    def forward(self, x_NLC: Tensor, height: int, width: int) -> Tensor:
        q = self.q(x_NLC).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.reduction > 1:
            x_NLC = self.norm(tokens(self.sr(as_map(x_NLC, height, width))))
        k, v = self.kv(x_NLC).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class DepthwiseConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, 1, 1, groups=width)

    def forward(self, x_NLC: Tensor, height: int, width: int) -> Tensor:
        return tokens(self.dwconv(as_map(x_NLC, height, width)))


class MixFFN(nn.Module):
    """The depthwise convolution between the two linear layers is what tells the tokens their places."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_NLC: Tensor, height: int, width: int) -> Tensor:
        mixed: Tensor = self.fc2(F.gelu(self.dwconv(self.fc1(x_NLC), height, width)))
        return mixed


class Block(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.mlp = MixFFN(width, 4 * width)

    def add(self, x_NLC: Tensor, branch_NLC: Tensor) -> Tensor:
        """The residual sum, with stochastic depth per sample in training."""
        if self.drop_path == 0 or not self.training:
            return x_NLC + branch_NLC
        keep = 1 - self.drop_path
        kept = branch_NLC.new_empty(len(x_NLC), 1, 1).bernoulli_(keep).div_(keep)
        return torch.addcmul(x_NLC, branch_NLC, kept.to(x_NLC.dtype))

    def forward(self, x_NLC: Tensor, height: int, width: int) -> Tensor:
        x_NLC = self.add(x_NLC, self.attn(self.norm1(x_NLC), height, width))
        return self.add(x_NLC, self.mlp(self.norm2(x_NLC), height, width))


class MixTransformer(nn.Module):
    """`backbone(x, stage)` runs one stage, 0 to 3: whoever calls decides what happens between them."""

    def __init__(self, size: MiTSize, *, drop_path: float = 0.1) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is a probability below 1; it is {drop_path}")
        self.channels = list(size.widths)
        rates = iter(torch.linspace(0, drop_path, sum(size.depths), device="cpu").tolist())
        inputs = 3
        for stage, width in enumerate(size.widths):
            kernel, stride = (7, 4) if stage == 0 else (3, 2)
            blocks = [
                Block(width, size.heads[stage], size.reductions[stage], next(rates)) for _ in range(size.depths[stage])
            ]
            self.add_module(f"patch_embed{stage + 1}", PatchEmbed(inputs, width, kernel, stride))
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=BLOCK_EPS))
            inputs = width
        self.apply(_init)

    def forward(self, x_NCHW: Tensor, stage: int) -> Tensor:
        x_NLC, height, width = getattr(self, f"patch_embed{stage + 1}")(x_NCHW)
        for block in getattr(self, f"block{stage + 1}"):
            x_NLC = block(x_NLC, height, width)
        return as_map(getattr(self, f"norm{stage + 1}")(x_NLC), height, width)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        outgoing = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / outgoing))
        assert module.bias is not None
        nn.init.zeros_(module.bias)
