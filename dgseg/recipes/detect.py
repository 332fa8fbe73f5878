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
FEATURES = {
    DEEPLAB: ("aspp.*", "bot_fine.*", "bot_aspp.*", *HEAD),
    MASK2FORMER: (
        "network.model.pixel_level_module.decoder.*",
        "network.model.transformer_module.*",
        "network.class_predictor.*",
        *HEAD,
    ),
}
STREETS_MODEL = "deeplabv3plus_mobilenetv2"
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


def streets_start() -> Recipe:
    """what the streets stages begin with: DeepLabV3+ by cross-entropy"""
    base = streets.erm()
    return replace(base, name="detect-streets-start", model=ModelConfig(STREETS_MODEL, options={"uncertainty": False}))


def streets_stage(name: str, stage: Recipe, shift: str = "coherent", uncertain: bool = True) -> Recipe:
    """A stage on the streets world, from `--model.weights runs/detect-streets-start/weights.safetensors`."""
    base = streets.erm()
    tests = tuple(f"streets={domain}@test,unknown=true,{streets.SIZE}" for domain in TARGETS)
    return replace(
        stage,
        name=name,
        data=replace(
            base.data, sources=(f"{STREETS_PAIRS},shift={shift}",), shares=None, augment=Streets(), test=tests
        ),
        model=replace(stage.model, name=STREETS_MODEL, options={"uncertainty": uncertain}),
        schedule=replace(stage.schedule, steps=300),
        train=TrainConfig(save_every=100),
    )


def recipes() -> dict[str, tuple[Callable[[], Recipe], str]]:
    """name -> (function, what it is)."""
    found: dict[str, tuple[Callable[[], Recipe], str]] = {}

    def add(name: str, says: str, make: Callable[..., Recipe], *arguments: Any) -> None:
        found[name] = (partial(make, name, *arguments), says)

    add("detect-stage1-mask2former", "stage 1 on Mask2Former", stage1, MASK2FORMER)
    add("detect-stage2-mask2former", "stage 2 on Mask2Former", stage2, MASK2FORMER)
    add("detect-stage2-all", "stage 2 that trains every parameter", stage2, DEEPLAB, True)
    add("detect-streets-stage1", "stage 1 on the streets world", streets_stage, stage1())
    add("detect-streets-stage2", "stage 2 on the streets world", streets_stage, stage2())
    for shift in SHIFTS:
        for number, stage in ((1, stage1()), (2, stage2())):
            says = f"CG-Aug's ablation on the streets world: {shift}, stage {number}"
            add(f"ablation-detect-{shift}-stage{number}", says, streets_stage, stage, shift)
    everything = stage2(everything=True)
    entropy = replace(
        everything,
        objective=ObjectiveConfig(ce=CrossEntropyConfig(weight=0.1), max_entropy=MaximizedEntropyConfig()),
    )
    detector = replace(
        stage2(),
        objective=ObjectiveConfig(
            ce=CrossEntropyConfig(weight=50), uncertainty=RelativeContrastConfig(augmented=None, shift=None)
        ),
    )
    generalizer = replace(
        everything, objective=ObjectiveConfig(ce=CrossEntropyConfig(weight=50), small_loss=SmallLossConfig(weight=10))
    )
    add("detect-streets-max-entropy", "maximised entropy, a baseline", streets_stage, entropy, "semantic", False)
    add("detect-streets-detector", "a baseline that detects alone", streets_stage, detector, "semantic")
    says = "a baseline that generalizes alone"
    add("detect-streets-generalizer", says, streets_stage, generalizer, "covariate", False)
    return found
