"""Domain adaptation in real time: the study's Tables 1 to 4, and the same on the streets world.

Data is looked for in ./data; the lists of the study's images come from `dgseg data select`. 50 epochs are counted in
steps: ceil(50 · images / images per step).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from dgseg.data.augment.presets import RealTime
from dgseg.objectives import AdversarialConfig, CrossEntropyConfig, FocalDiceConfig
from dgseg.recipes import streets
from dgseg.training.recipe import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    Recipe,
    ScheduleConfig,
    SGDConfig,
    TargetConfig,
    TrainConfig,
)

CITYSCAPES, GTA5 = (512, 1024), (720, 1280)
CITYSCAPES_IMAGES, GTA5_IMAGES, EPOCHS = 1572, 2500, 50
CITYSCAPES_TRAIN = "cityscapes=data/cityscapes@train,files=data/cityscapes-2072.txt"
GTA5_TRAIN = "gta5=data/gta5@all,files=data/gta5-2500.txt"
CITYSCAPES_VAL = "cityscapes=data/cityscapes@val"
STREETS = (192, 384)
CE = ObjectiveConfig(ce=CrossEntropyConfig())
# Of Table 2: what is done to the source's images.
AUGMENTATIONS = {
    "none": (),
    "flip": ("flip",),
    "jitter": ("jitter",),
    "jitter-flip": ("jitter", "flip"),
    "all": ("flip", "jitter", "crop"),
}
# Of Table 4: what stands in the place of Table 3's cross-entropy.
LOSSES = {
    "focal": FocalDiceConfig.focal(),
    "focal-weighted": FocalDiceConfig.focal("median_frequency"),
    "dice": FocalDiceConfig.dice(),
    "dice-weighted": FocalDiceConfig.dice("median_frequency"),
    **{f"combined-{alpha}": FocalDiceConfig.combined(alpha) for alpha in (0.3, 0.5, 0.7)},
}
BISENET = (ModelConfig("bisenet_r18", pretrained=True), SGDConfig(lr=2.5e-2, weight_decay=1e-4))
DEEPLAB = (ModelConfig("deeplabv2_r101", pretrained=True), SGDConfig(lr=1e-3, weight_decay=5e-4))


def augmented(size: tuple[int, int], *parts: str) -> RealTime:
    """With those of flip, jitter and crop that are named, each for half of the images."""
    flip, jitter, crop = (0.5 if part in parts else 0.0 for part in ("flip", "jitter", "crop"))
    return RealTime(size=size, flip=flip, jitter=jitter, crop=crop)


def steps(images: int, batch: int, epochs: int = EPOCHS) -> int:
    return math.ceil(epochs * images / batch)


def source_only(
    name: str,
    network: tuple[ModelConfig, SGDConfig],
    source: str,
    count: int,
    augment: RealTime,
    objective: ObjectiveConfig = CE,
    epochs: int = EPOCHS,
) -> Recipe:
    model, optimizer = network
    return Recipe(
        name=name,
        data=DataConfig(
            sources=(source,), augment=augment, batch_size=16, loaders=4, test=(CITYSCAPES_VAL,), protocol="realtime"
        ),
        model=model,
        objective=objective,
        optimizer=optimizer,
        schedule=ScheduleConfig(steps=steps(count, 16, epochs), power=0.9),
        train=TrainConfig(precision="bf16", save_every=1000),
    )


def adversarial(name: str, batch: int, objective: ObjectiveConfig) -> Recipe:
    """As many target images as source images in every step."""
    base = source_only(name, BISENET, GTA5_TRAIN, GTA5_IMAGES, augmented(GTA5, "jitter"))
    target = TargetConfig(CITYSCAPES_TRAIN, augmented(CITYSCAPES))
    return replace(
        base,
        data=replace(base.data, batch_size=batch, target=target),
        objective=replace(objective, adversarial=AdversarialConfig()),
        schedule=replace(base.schedule, steps=steps(GTA5_IMAGES, batch)),
    )


def on_streets(name: str = "realtime-streets", objective: ObjectiveConfig = CE) -> Recipe:
    """adversarial adaptation to fog on the streets world"""
    base = streets_source(name, "jitter")
    target = TargetConfig(f"streets=fog@train,use=adaptation,{streets.SIZE}", augmented(STREETS))
    objective = replace(objective, adversarial=AdversarialConfig(width=16))
    return replace(base, data=replace(base.data, target=target), objective=objective)


def streets_source(name: str, *parts: str) -> Recipe:
    base = streets.erm()
    return replace(base, name=name, data=replace(base.data, batch_size=4, augment=augmented(STREETS, *parts)))


def recipes() -> dict[str, tuple[Callable[[], Recipe], str]]:
    """name -> (function, what it is)."""
    found: dict[str, tuple[Callable[[], Recipe], str]] = {}

    def add(name: str, says: str, make: Callable[..., Recipe], *arguments: Any) -> None:
        found[name] = (partial(make, name, *arguments), says)

    weighted = ObjectiveConfig(ce=CrossEntropyConfig(class_weight="median_frequency"))
    for model, network in (("deeplabv2", DEEPLAB), ("bisenet", BISENET)):
        says = f"real-time Table 1: {model} on Cityscapes"
        cityscapes = (network, CITYSCAPES_TRAIN, CITYSCAPES_IMAGES, augmented(CITYSCAPES))
        add(f"realtime-cityscapes-{model}", says, source_only, *cityscapes)
        add(f"realtime-cityscapes-{model}-weighted", f"{says}, weighted classes", source_only, *cityscapes, weighted)
    for row, parts in AUGMENTATIONS.items():
        augment = augmented(GTA5, *parts)
        says = f"real-time Table 2: BiSeNet on GTA5, augmentation {row}"
        add(f"realtime-augment-{row}", says, source_only, BISENET, GTA5_TRAIN, GTA5_IMAGES, augment)
        says = f"real-time Table 2 on the streets world: augmentation {row}"
        add(f"realtime-streets-augment-{row}", says, streets_source, *parts)
    for part in ("jitter", "crop", "flip"):
        augment = augmented(GTA5, part)
        says = f"real-time study, 10 epochs with {part} alone"
        add(f"realtime-augment-{part}-10-epochs", says, source_only, BISENET, GTA5_TRAIN, GTA5_IMAGES, augment, CE, 10)
    says = "real-time Table 3: BiSeNet adapted to Cityscapes by an adversary"
    add("realtime-adversarial", says, adversarial, 8, CE)
    for row, loss in LOSSES.items():
        objective = ObjectiveConfig(focal_dice=loss)
        says = f"real-time Table 4: adversary and {row} loss"
        add(f"realtime-adversarial-{row}", says, adversarial, 4, objective)
        says = f"real-time Table 4 on the streets world: adversary and {row} loss"
        add(f"realtime-streets-{row}", says, on_streets, objective)
    return found
