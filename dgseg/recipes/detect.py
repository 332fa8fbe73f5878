"""Generalize or Detect: segment what is known under every look, and know what is not.

Stage 1 trains the uncertainty head alone, stage 2 the features, from stage 1's file (--model.weights). Both begin with
a segmentation model that is trained already: --model.weights of stage 1; on the streets world detect-streets-start
makes one. Pairs of an image and its augmented self come from the streets renderer or `dgseg generate` (pairs=FOLDER).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from dgseg.data.augment.presets import DAFormer, Streets
from dgseg.data.streets.domains import TARGETS
from dgseg.objectives import (
    CrossEntropyConfig,
    MaskClassificationConfig,
    MaximizedEntropyConfig,
    RelativeContrastConfig,
    SmallLossConfig,
)
from dgseg.recipes import streets
from dgseg.training.recipe import (
    AdamWConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    Recipe,
    ScheduleConfig,
    TrainConfig,
)

HEAD = ("uncertainty.*",)
DEEPLAB, MASK2FORMER = "deeplabv3plus_r50", "mask2former_r50"
# Stage 2: what makes features out of the frozen backbone's maps, and the head, which would grow stale beside them.
FEATURES = {
    DEEPLAB: ("aspp.*", "bot_fine.*", "bot_aspp.*", *HEAD),
    MASK2FORMER: (
        "network.model.pixel_level_module.decoder.*",
        "network.model.transformer_module.*",
        "network.class_predictor.*",
        *HEAD,
    ),
}
# On the streets world: small enough to train from nothing on two cores.
SMALL = {
    DEEPLAB: ModelConfig("deeplabv3plus_mobilenetv2"),
    MASK2FORMER: ModelConfig(
        MASK2FORMER,
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


def stage1(name: str = "detect-stage1", model: str = DEEPLAB) -> Recipe:
    """Generalize or Detect, stage 1: the uncertainty head"""
    mask2former = model == MASK2FORMER
    return Recipe(
        name=name,
        data=DataConfig(
            sources=("pairs=data/cityscapes-cg-aug",),
            augment=DAFormer(size=None, crop=(380, 760) if mask2former else (700, 700), max_class_share=1.0),
            batch_size=8,
            loaders=4,
            test=TEST,
        ),
        model=ModelConfig(model, options={"uncertainty": True}, trainable=HEAD),
        objective=ObjectiveConfig(
            uncertainty=RelativeContrastConfig.mask2former() if mask2former else RelativeContrastConfig()
        ),
        optimizer=AdamWConfig(lr=1e-5 if mask2former else 1e-4, weight_decay=1e-4, head_multiple=1.0),
        schedule=ScheduleConfig(steps=2000, power=0.9),
        train=TrainConfig(save_every=500),
    )


def stage2(name: str = "detect-stage2", model: str = DEEPLAB, everything: bool = False) -> Recipe:
    """Generalize or Detect, stage 2: the features, from stage 1's weights"""
    base = stage1(name, model)
    uncertainty = base.objective.uncertainty
    return replace(
        base,
        model=replace(base.model, trainable=() if everything else FEATURES[model]),
        objective=ObjectiveConfig(
            ce=CrossEntropyConfig(weight=50), small_loss=SmallLossConfig(weight=10), uncertainty=uncertainty
        ),
        schedule=ScheduleConfig(steps=10_000, power=0.9),
    )


def streets_start(name: str = "detect-streets-start", model: str = DEEPLAB) -> Recipe:
    """what the streets stages begin with: DeepLabV3+ by cross-entropy"""
    base = streets.erm()
    start = replace(base, name=name, model=_small(model, uncertainty=False))
    if model == MASK2FORMER:
        start = replace(
            start,
            objective=ObjectiveConfig(masks=MaskClassificationConfig()),
            optimizer=replace(base.optimizer, lr=1e-3),
            train=replace(base.train, clip=1.0),
        )
    return start


def streets_stage(
    name: str, stage: Recipe, shift: str = "coherent", uncertain: bool = True, model: str = DEEPLAB
) -> Recipe:
    """A stage on the streets world, from `--model.weights runs/detect-streets-start/weights.safetensors`."""
    base = streets.erm()
    # So few steps at DeepLabV3+'s rate leave Mask2Former's head where it was: as it began, then.
    lr, clip = (1e-3, 1.0) if model == MASK2FORMER else (1e-4, None)
    tests = tuple(f"streets={domain}@test,unknown=true,{streets.SIZE}" for domain in TARGETS)
    return replace(
        stage,
        name=name,
        data=replace(
            base.data, sources=(f"{STREETS_PAIRS},shift={shift}",), shares=None, augment=Streets(), test=tests
        ),
        model=replace(_small(model, uncertainty=uncertain), trainable=stage.model.trainable),
        optimizer=AdamWConfig(lr=lr, weight_decay=1e-4, head_multiple=1.0),
        schedule=replace(stage.schedule, steps=300),
        train=TrainConfig(save_every=100, clip=clip),
    )


def _small(model: str, **options: Any) -> ModelConfig:
    return replace(SMALL[model], options={**SMALL[model].options, **options})


def recipes() -> dict[str, tuple[Callable[[], Recipe], str]]:
    """name -> (function, what it is)."""
    found: dict[str, tuple[Callable[[], Recipe], str]] = {}

    def add(name: str, says: str, make: Callable[..., Recipe], *arguments: Any) -> None:
        found[name] = (partial(make, name, *arguments), says)

    add("detect-stage1-mask2former", "stage 1 on Mask2Former", stage1, MASK2FORMER)
    add("detect-stage2-mask2former", "stage 2 on Mask2Former", stage2, MASK2FORMER)
    add("detect-stage2-all", "stage 2 that trains every parameter", stage2, DEEPLAB, True)
    # "detect-streets-start" itself stands beside this room's other functions.
    says = "what the streets stages on Mask2Former begin with: its own loss"
    add("detect-streets-mask2former-start", says, streets_start, MASK2FORMER)
    for model, infix, called in ((DEEPLAB, "", ""), (MASK2FORMER, "mask2former-", ", on Mask2Former")):

        def on_streets(name: str, says: str, stage: Recipe, shift: str = "coherent", uncertain: bool = True) -> None:
            add(name, says + called, streets_stage, stage, shift, uncertain, model)  # noqa: B023 - called at once

        first, second = stage1(model=model), stage2(model=model)
        everything = stage2(model=model, everything=True)
        on_streets(f"detect-streets-{infix}stage1", "stage 1 on the streets world", first)
        on_streets(f"detect-streets-{infix}stage2", "stage 2 on the streets world", second)
        for shift in SHIFTS:
            for number, stage in ((1, first), (2, second)):
                says = f"CG-Aug's ablation on the streets world: {shift}, stage {number}"
                on_streets(f"ablation-detect-{infix}{shift}-stage{number}", says, stage, shift)
        entropy = ObjectiveConfig(ce=CrossEntropyConfig(weight=0.1), max_entropy=MaximizedEntropyConfig())
        says = "maximised entropy, a baseline"
        on_streets(
            f"detect-streets-{infix}max-entropy", says, replace(everything, objective=entropy), "semantic", False
        )
        uncertainty = second.objective.uncertainty
        assert uncertainty is not None, "stage 2 trains the head too"
        alone = replace(uncertainty, augmented=None, shift=None)
        detector = replace(second, objective=ObjectiveConfig(ce=CrossEntropyConfig(weight=50), uncertainty=alone))
        on_streets(f"detect-streets-{infix}detector", "a baseline that detects alone", detector, "semantic")
        segment = ObjectiveConfig(ce=CrossEntropyConfig(weight=50), small_loss=SmallLossConfig(weight=10))
        says = "a baseline that generalizes alone"
        on_streets(
            f"detect-streets-{infix}generalizer", says, replace(everything, objective=segment), "covariate", False
        )
    return found
