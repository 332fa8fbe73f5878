"""The key names and shapes of published checkpoints, written out from their pattern."""

from dgseg.models.backbones.mit import MIT_SIZES

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, outputs: int, inputs: int, kernel: int = 1, *, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (outputs, inputs, kernel, kernel)}
    return shapes | ({f"{name}.bias": (outputs,)} if bias else {})


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm(name: str, width: int) -> Shapes:
    shapes: Shapes = {f"{name}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def conv_module(name: str, outputs: int, inputs: int, kernel: int = 1) -> Shapes:
    return conv(f"{name}.conv", outputs, inputs, kernel, bias=False) | batch_norm(f"{name}.bn", outputs)


def mit(size: str, prefix: str = "backbone.") -> Shapes:
    widths, depths = MIT_SIZES[size].widths, MIT_SIZES[size].depths
    keys: Shapes = {}
    for stage, (width, inputs, reduction) in enumerate(zip(widths, (3, *widths), (8, 4, 2, 1), strict=False), 1):
        keys |= conv(f"{prefix}patch_embed{stage}.proj", width, inputs, 7 if stage == 1 else 3)
        keys |= layer_norm(f"{prefix}patch_embed{stage}.norm", width) | layer_norm(f"{prefix}norm{stage}", width)
        for index in range(depths[stage - 1]):
            block = f"{prefix}block{stage}.{index}"
            keys |= layer_norm(f"{block}.norm1", width) | layer_norm(f"{block}.norm2", width)
            keys |= linear(f"{block}.attn.q", width, width) | linear(f"{block}.attn.kv", 2 * width, width)
            keys |= linear(f"{block}.attn.proj", width, width)
            if reduction > 1:
                keys |= conv(f"{block}.attn.sr", width, width, reduction) | layer_norm(f"{block}.attn.norm", width)
            keys |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
            keys |= conv(f"{block}.mlp.dwconv.dwconv", 4 * width, 1, 3)
    return keys


def segformer_head(size: str, classes: int = 19) -> Shapes:
    width = 256 if size in ("b0", "b1") else 768
    keys = conv("decode_head.conv_seg", classes, 128)  # built by the head's base class, never used
    for level, inputs in enumerate(MIT_SIZES[size].widths, 1):
        keys |= linear(f"decode_head.linear_c{level}.proj", width, inputs)
    keys |= conv_module("decode_head.linear_fuse", width, 4 * width)
    return keys | conv("decode_head.linear_pred", classes, width)


def embeddings(prefix: str, size: str) -> Shapes:
    keys: Shapes = {}
    for level, inputs in enumerate(MIT_SIZES[size].widths):
        keys |= linear(f"{prefix}embed_layers.{level}.proj", 256, inputs)
    return keys


def daformer_head(size: str, prefix: str = "decode_head.", classes: int = 19) -> Shapes:
    fuse = f"{prefix}fuse_layer"
    keys = embeddings(prefix, size) | conv(f"{prefix}conv_seg", classes, 256)
    keys |= conv_module(f"{fuse}.aspp_modules.0", 256, 1024) | conv_module(f"{fuse}.bottleneck", 256, 1024, 3)
    for branch in (1, 2, 3):
        keys |= conv(f"{fuse}.aspp_modules.{branch}.depthwise_conv.conv", 1024, 1, 3, bias=False)
        keys |= batch_norm(f"{fuse}.aspp_modules.{branch}.depthwise_conv.bn", 1024)
        keys |= conv_module(f"{fuse}.aspp_modules.{branch}.pointwise_conv", 256, 1024)
    return keys


def hrda_heads(size: str, classes: int = 19) -> Shapes:
    attention = "decode_head.scale_attention."
    return (
        daformer_head(size, "decode_head.head.", classes)
        | embeddings(attention, size)
        | conv_module(f"{attention}fuse_layer", 256, 1024)
        | conv(f"{attention}conv_seg", classes, 256)
    )


def resnet101_v1c(prefix: str = "backbone.") -> Shapes:
    keys: Shapes = {}
    for index, (outputs, inputs) in enumerate([(32, 3), (32, 32), (64, 32)]):
        keys |= conv(f"{prefix}stem.{3 * index}", outputs, inputs, 3, bias=False)
        keys |= batch_norm(f"{prefix}stem.{3 * index + 1}", outputs)
    inputs = 64
    for layer, (blocks, width) in enumerate(zip((3, 4, 23, 3), (64, 128, 256, 512), strict=True), 1):
        for index in range(blocks):
            block = f"{prefix}layer{layer}.{index}"
            for number, (outputs, into, kernel) in enumerate(
                [(width, inputs, 1), (width, width, 3), (4 * width, width, 1)], 1
            ):
                keys |= conv(f"{block}.conv{number}", outputs, into, kernel, bias=False)
                keys |= batch_norm(f"{block}.bn{number}", outputs)
            if index == 0:
                keys |= conv(f"{block}.downsample.0", 4 * width, inputs, bias=False)
                keys |= batch_norm(f"{block}.downsample.1", 4 * width)
            inputs = 4 * width
    return keys


def deeplabv2_head(prefix: str = "decode_head.", classes: int = 19) -> Shapes:
    return conv(f"{prefix}aspp_modules.0.conv", classes, 2048, 3) | conv(
        f"{prefix}aspp_modules.1.conv", classes, 2048, 3
    )
