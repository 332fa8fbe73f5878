"""Mix Transformers: the ImageNet files, and transformers' names for them and for SegFormer. The published SegFormer,
DAFormer and HRDA checkpoints need no translation: our modules carry their names."""

import re

import torch
from torch import nn

from dgseg.models.weights.format import Format, State

# transformers' names in files; beside them those that its modules have had since 5.2x.
_STAGED = [  # its stages count from 0
    (r"^(?:encoder\.patch_embeddings\.(\d)|stages\.(\d)\.patch_embeddings)\.", "patch_embed{}."),
    (r"^(?:encoder\.block\.(\d)|stages\.(\d)\.blocks)\.", "block{}."),
    (r"^(?:encoder\.layer_norm\.(\d)|stages\.(\d)\.layer_norm)\.", "norm{}."),
    (r"^decode_head\.(?:linear_c|linear_projections)\.(\d)\.", "decode_head.linear_c{}."),
]
_RENAMED = [
    (r"^(patch_embed\d\.)layer_norm\.", r"\1norm."),
    (r"\.(?:layer_norm_1|layernorm_before)\.", ".norm1."),
    (r"\.(?:layer_norm_2|layernorm_after)\.", ".norm2."),
    (r"\.attention\.(?:self\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:self\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:self\.sr|sequence_reduction\.sequence_reduction)\.", ".attn.sr."),
    (r"\.attention\.(?:self|sequence_reduction)\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
    (r"^decode_head\.linear_fuse\.", "decode_head.linear_fuse.conv."),
    (r"^decode_head\.batch_norm\.", "decode_head.linear_fuse.bn."),
    (r"^decode_head\.classifier\.", "decode_head.linear_pred."),
]
_TRANSFORMERS = re.compile(r"(segformer\.)?(encoder\.patch_embeddings\.0|stages\.0\.patch_embeddings)\.proj\.weight")


def into_backbone(state: State, model: nn.Module) -> State:
    """For a bare backbone as they are; for a segmentation model under its backbone's name."""
    if isinstance(getattr(model, "backbone", None), nn.Module):
        return {key if key.startswith("decode_head.") else f"backbone.{key}": tensor for key, tensor in state.items()}
    return state


def _from_transformers(state: State, model: nn.Module) -> State:
    renamed = {_rename(key): tensor for key, tensor in state.items()}
    for key in [key for key in renamed if ".attn.k." in key]:
        value = renamed.pop(key.replace(".attn.k.", ".attn.v."), None)
        if value is not None:
            renamed[key.replace(".attn.k.", ".attn.kv.")] = torch.cat([renamed.pop(key), value])
    return into_backbone(renamed, model)


def _rename(key: str) -> str:
    key = key.removeprefix("segformer.")
    for pattern, ours in _STAGED:
        if match := re.match(pattern, key):
            stage = next(int(group) for group in match.groups() if group is not None)
            key = ours.format(stage + 1) + key[match.end() :]
    for pattern, ours in _RENAMED:
        key = re.sub(pattern, ours, key)
    return key


FORMATS = [
    Format(
        "MiT (ImageNet)",
        recognises=lambda keys: keys >= {"patch_embed1.proj.weight", "block1.0.attn.kv.weight", "norm4.weight"},
        translate=into_backbone,
        ignores=("head.",),
    ),
    Format(
        "SegFormer (transformers)",
        recognises=lambda keys: any(_TRANSFORMERS.fullmatch(key) for key in keys),
        translate=_from_transformers,
        ignores=("classifier.",),
    ),
    Format(
        "SegFormer",
        recognises=lambda keys: keys >= {"backbone.patch_embed1.proj.weight", "decode_head.linear_c1.proj.weight"},
        ignores=("decode_head.conv_seg.",),  # there, and never used
    ),
    Format(
        "DAFormer",
        recognises=lambda keys: (
            keys >= {"backbone.patch_embed1.proj.weight", "decode_head.fuse_layer.bottleneck.conv.weight"}
        ),
    ),
    Format(
        "HRDA",
        recognises=lambda keys: (
            keys >= {"backbone.patch_embed1.proj.weight", "decode_head.scale_attention.conv_seg.weight"}
        ),
    ),
]
