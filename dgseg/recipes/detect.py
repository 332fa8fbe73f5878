"""Generalize or Detect: segment what is known under every look, and know what is not.

Stage 1 trains the uncertainty head alone, stage 2 the features, from stage 1's file (--model.weights). Both begin with
a segmentation model that is trained already: --model.weights of stage 1; on the streets world detect-streets-start
makes one. Pairs of an image and its augmented self come from the streets renderer or `dgseg generate` (pairs=FOLDER).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from dgseg.data.augment.presets import DAFormer, Streets
from dgseg.data.streets.domains import TARGETS
from dgseg.objectives import (
    CrossEntropy,
    MaskClassification,
    MaximizedEntropy,
    RelativeContrast,
    SmallLossCrossEntropy,
)
from dgseg.recipes import streets
from dgseg.recipes.catalogue import recipe, table
from dgseg.recipes.edit import with_objectives
from dgseg.training.recipe import (
    AdamWConfig,
    DataConfig,
    ModelConfig,
    Recipe,
    ScheduleConfig,
    TrainConfig,
)
from dgseg.training.yaml import override

Family = Literal["deeplabv3plus", "mask2former"]
Trained = Literal["features", "all"]
HEAD = ("uncertainty.*",)
# Stage 2: what makes features out of the frozen backbone's maps, and the head, which would grow stale beside them.
FEATURES: dict[Family, tuple[str, ...]] = {
    "deeplabv3plus": ("aspp.*", "bot_fine.*", "bot_aspp.*", *HEAD),
    "mask2former": (
        "network.model.pixel_level_module.decoder.*",
        "network.model.transformer_module.*",
        "network.class_predictor.*",
        *HEAD,
    ),
}
# On the streets world: small enough to train from nothing on two cores.
SMALL: dict[Family, ModelConfig] = {
    "deeplabv3plus": ModelConfig("deeplabv3plus_mobilenetv2"),
    "mask2former": ModelConfig(
        "mask2former_r50",
        options={
            "backbone": {
                "embedding_size": 32,
                "hidden_sizes": [32, 64, 128, 256],
                "depths": [1, 1, 1, 1],
                "layer_type": "basic",
            },
            "feature_size": 64,
            "mask_feature_size": 64,
            "hidden_dim": 64,
            "encoder_feedforward_dim": 128,
            "dim_feedforward": 128,
            "encoder_layers": 2,
            "decoder_layers": 4,
            "num_attention_heads": 4,
            "num_queries": 40,
            "train_num_points": 2048,
        },
    ),
}
STREETS_PAIRS = f"streets_pairs=game@train,{streets.SIZE}"
SHIFTS = ("semantic", "either", "both", "coherent")
TEST = ("acdc_poc=data/acdc_poc", "muad=data/muad")


@recipe("detect-stage1")
def stage1(family: Family = "deeplabv3plus") -> Recipe:
    """Generalize or Detect, stage 1: the uncertainty head"""
    mask2former = family == "mask2former"
    return Recipe(
        name="detect-stage1",
        data=DataConfig(
            sources=("pairs=data/cityscapes-cg-aug",),
            augment=DAFormer(size=None, crop=(380, 760) if mask2former else (700, 700), max_class_share=1.0),
            batch_size=8,
            loaders=4,
            test=TEST,
        ),
        model=ModelConfig(f"{family}_r50", options={"uncertainty": True}, trainable=HEAD),
        objective={"uncertainty": RelativeContrast.Config.mask2former() if mask2former else RelativeContrast.Config()},
        optimizer=AdamWConfig(lr=1e-5 if mask2former else 1e-4, weight_decay=1e-4, head_multiple=1.0),
        schedule=ScheduleConfig(steps=2000, power=0.9),
        train=TrainConfig(save_every=500),
    )


@recipe("detect-stage2")
def stage2(family: Family = "deeplabv3plus", trained: Trained = "features") -> Recipe:
    """Generalize or Detect, stage 2: the features, from stage 1's weights"""
    base = stage1(family)
    return replace(
        base,
        name="detect-stage2",
        model=replace(base.model, trainable=() if trained == "all" else FEATURES[family]),
        objective={
            "ce": CrossEntropy.Config(weight=50),
            "small_loss": SmallLossCrossEntropy.Config(weight=10),
            **base.objective,
        },
        schedule=ScheduleConfig(steps=10_000, power=0.9),
    )


@recipe("detect-streets-start")
def streets_start(family: Family = "deeplabv3plus") -> Recipe:
    """what the streets stages begin with: a segmentation model by its own loss"""
    base = streets.erm_streets()
    start = replace(base, name="detect-streets-start", model=_small(family, uncertainty=False))
    if family == "mask2former":
        start = replace(
            start,
            objective={"masks": MaskClassification.Config()},
            optimizer=replace(base.optimizer, lr=1e-3),
            train=replace(base.train, clip=1.0),
        )
    return start


@recipe("detect-streets-stage1")
def streets_stage1(family: Family = "deeplabv3plus") -> Recipe:
    """stage 1 on the streets world, from --model.weights of the start"""
    return _on_streets(stage1(family), "detect-streets-stage1", family)


@recipe("detect-streets-stage2")
def streets_stage2(family: Family = "deeplabv3plus") -> Recipe:
    """stage 2 on the streets world, from --model.weights of stage 1"""
    return _on_streets(stage2(family), "detect-streets-stage2", family)


@table("detection")
def detection() -> Mapping[str, Recipe]:
    """baselines and CG-Aug's ablation on the streets world, as in its Tables 2 and 4"""
    return _rows("deeplabv3plus")


@table("detection-mask2former")
def detection_mask2former() -> Mapping[str, Recipe]:
    """the rows of study:detection on Mask2Former"""
    return _rows("mask2former")


def _rows(family: Family) -> dict[str, Recipe]:
    everything, second = stage2(family, "all"), stage2(family)
    entropy = {"ce": CrossEntropy.Config(weight=0.1), "max_entropy": MaximizedEntropy.Config()}
    left_out = ("small_loss", "uncertainty.augmented", "uncertainty.shift")
    detector = override(second, {f"objective.{part}": None for part in left_out})
    generalizer = with_objectives(everything, uncertainty=None)

    def row(stage: Recipe, shift: str, *, uncertain: bool = True) -> Recipe:
        return _on_streets(stage, "", family, shift, uncertain=uncertain)

    return {
        "max-entropy": row(replace(everything, objective=entropy), "semantic", uncertain=False),
        "detector": row(detector, "semantic"),
        "generalizer": row(generalizer, "covariate", uncertain=False),
        **{
            f"{shift}-stage{number}": row(stage, shift)
            for shift in SHIFTS
            for number, stage in ((1, stage1(family)), (2, second))
        },
    }


def _on_streets(stage: Recipe, name: str, family: Family, shift: str = "coherent", *, uncertain: bool = True) -> Recipe:
    """A stage on the streets world, from `--model.weights runs/detect-streets-start/weights.safetensors`."""
    base = streets.erm_streets()
    # So few steps at DeepLabV3+'s rate leave Mask2Former's head where it was: as it began, then.
    lr, clip = (1e-3, 1.0) if family == "mask2former" else (1e-4, None)
    tests = tuple(f"streets={domain}@test,unknown=true,{streets.SIZE}" for domain in TARGETS)
    return replace(
        stage,
        name=name,
        data=replace(
            base.data, sources=(f"{STREETS_PAIRS},shift={shift}",), shares=None, augment=Streets(), test=tests
        ),
        model=replace(_small(family, uncertainty=uncertain), trainable=stage.model.trainable),
        optimizer=AdamWConfig(lr=lr, weight_decay=1e-4, head_multiple=1.0),
        schedule=replace(stage.schedule, steps=300),
        train=TrainConfig(save_every=100, clip=clip),
    )


def _small(family: Family, **options: Any) -> ModelConfig:
    return replace(SMALL[family], options={**SMALL[family].options, **options})
