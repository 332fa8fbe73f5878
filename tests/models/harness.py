"""Every model at a size that a test can afford. A new model adds its row; `test_every_model.py` does the rest."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dgseg.models import Prediction, build
from dgseg.models.backbones.mit import MiTSize
from dgseg.models.base import SegmentationModel

CLASSES = 5


@dataclass
class Tiny:
    """options: what makes the model small; stride: of its logits; features: the names it returns, in any order."""

    stride: int
    features: set[str]
    options: dict[str, Any] = field(default_factory=dict)
    aux: int = 0  # auxiliary predictions in training
    size: tuple[int, int] = (64, 96)
    odd_size: tuple[int, int] = (65, 97)
    grid: Callable[[int], int] | None = None  # logits' side for an image's, where it is not ceil(side / stride)
    millions: float | None = None  # published parameters at 19 classes
    gigamacs: float | None = None  # published multiply-accumulates at 512x1024, as fvcore counts them
    size_of: str | None = None  # the row whose code this is, at another size: tested there

    slow_to_compile: bool = False  # a trunk of many small blocks, or a family of which another is traced already

    def logits_side(self, side: int) -> int:
        return self.grid(side) if self.grid else math.ceil(side / self.stride)


STAGES = {"stage1", "stage2", "stage3", "stage4"}


def ceil_pooled(side: int) -> int:
    """Two strided convolutions around a pooling in ceil mode: 512 -> 65."""
    return _half(math.ceil((_half(side) - 1) / 2) + 1)


def _half(side: int) -> int:
    return (side + 1) // 2


SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3, "rank": 2, "dropout": 0.0, "decoder": 16}

TINY: dict[str, Tiny] = {
    "bisenet_mini": Tiny(
        stride=4,
        features=STAGES | {"decoder", "pre_classifier"},
        options={"width": 8, "decoder": 16},
        aux=1,
    ),
    "bisenet_r18": Tiny(
        stride=8,
        features=STAGES | {"spatial", "decoder", "pre_classifier"},
        aux=2,
        millions=12.58,
        gigamacs=25.78,
    ),
    "deeplabv2_r101": Tiny(
        stride=8,
        features=STAGES | {"decoder", "pre_classifier"},
        options={"layers": (1, 1, 1, 1), "multi_level": True},
        aux=1,
        grid=ceil_pooled,
        millions=43.90,
        gigamacs=375.7,
    ),
    "deeplabv3plus_r50": Tiny(
        stride=4,
        features=STAGES | {"norm0", "norm1", "norm2", "concat", "decoder", "pre_classifier"},
        options={
            "layers": (1, 1, 1, 1),
            "instance_norms": "whitening",
            "aux_dropout": 0.0,
            "uncertainty": True,
        },
        aux=1,
        millions=45.08,
        gigamacs=277.77 / 2,  # the paper's number is that of 1024x1024, whatever its caption says
    ),
    "deeplabv3plus_shufflenetv2": Tiny(
        stride=8,
        features=STAGES | {"norm0", "norm1", "norm2", "concat", "decoder", "pre_classifier"},
        options={"instance_norms": "whitening", "aux_dropout": 0.0},
        aux=1,
        slow_to_compile=True,
    ),
    "deeplabv3plus_mobilenetv2": Tiny(
        stride=8,
        features=STAGES | {"norm0", "norm1", "norm2", "concat", "decoder", "pre_classifier"},
        options={"instance_norms": "ibn", "aux_dropout": 0.0},
        aux=1,
        slow_to_compile=True,
    ),
    "mask2former_r50": Tiny(
        stride=4,
        features=STAGES | {"decoder", "pre_classifier"},
        options={
            "uncertainty": True,
            "backbone": {
                "embedding_size": 8,
                "hidden_sizes": [16, 16, 32, 32],
                "depths": [1, 1, 1, 1],
                "layer_type": "basic",
            },
            "feature_size": 64,
            "mask_feature_size": 32,
            "hidden_dim": 64,
            "encoder_feedforward_dim": 32,
            "dim_feedforward": 32,
            "encoder_layers": 1,
            "decoder_layers": 3,
            "num_attention_heads": 4,
            "num_queries": 10,
            "train_num_points": 256,
        },
        aux=2,
        millions=44.01,
        slow_to_compile=True,
    ),
    "vit_small_dinov2": Tiny(
        stride=14,
        features={"stage3", "stage4", "decoder", "pre_classifier"},
        options=SMALL_VIT | {"img_size": 56},
        odd_size=(71, 97),
    ),
    "vit_small_dinov3": Tiny(
        stride=16, features={"stage3", "stage4", "decoder", "pre_classifier"}, options=SMALL_VIT | {"img_size": 64}
    ),
    **{
        f"vit_{size}_{family}": Tiny(stride=stride, features=set(), size_of=f"vit_small_{family}")
        for size in ("base", "large")
        for family, stride in (("dinov2", 14), ("dinov3", 16))
    },
}

# One block a stage instead of the published depths; no dropout, so that two runs compare.
_MIT = {"mit": MiTSize((8, 16, 20, 32), (1, 1, 1, 1)), "width": 16, "drop_path": 0.0, "dropout": 0.0}
_R101 = {"layers": (1, 1, 1, 1)}
_FEATURES = STAGES | {"decoder", "pre_classifier"}
TINY |= {f"segformer_b{size}": Tiny(4, _FEATURES, _MIT, size_of="segformer_b0") for size in range(1, 6)}
TINY |= {
    "segformer_b0": Tiny(4, _FEATURES, _MIT),
    "daformer_mitb0": Tiny(4, _FEATURES, _MIT),
    "daformer_mitb5": Tiny(4, _FEATURES, _MIT, size_of="daformer_mitb0"),
    "daformer_r101": Tiny(8, _FEATURES, _R101),
    # HRDA trains on whole context cells only; other sizes are for its inference.
    "hrda_mitb0": Tiny(4, _FEATURES, _MIT, aux=1, odd_size=(72, 104)),
    "hrda_mitb5": Tiny(4, _FEATURES, _MIT, aux=1, size_of="hrda_mitb0"),
    "hrda_r101": Tiny(8, _FEATURES, _R101, aux=1, odd_size=(80, 112), slow_to_compile=True),
}


def tiny(name: str, seed: int = 0, **options: Any) -> SegmentationModel:
    torch.manual_seed(seed)
    return build(name, CLASSES, **(TINY[name].options | options))


def images(name: str, batch: int = 2, *, odd: bool = False) -> Tensor:
    row = TINY[name]
    size = row.odd_size if odd else row.size
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def loss(prediction: Prediction) -> Tensor:
    """Touches every output that a loss would."""
    total = prediction.logits.float().square().mean()
    for aux in prediction.aux:
        total = total + aux.weight * aux.logits.float().square().mean()
    if "uncertainty" in prediction.extra:
        total = total + prediction.extra["uncertainty"].float().square().mean()
    return total
