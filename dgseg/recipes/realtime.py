"""Domain adaptation in real time: the study's Tables 1 to 4, and the same on the streets world.

Data is looked for in ./data; the lists of the study's images come from `dgseg data select`. 50 epochs are counted in
steps: ceil(50 · images / images per step).
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from dgseg.data.augment.presets import RealTime
from dgseg.objectives import Adversarial, CrossEntropy, FocalDice
from dgseg.recipes import streets
from dgseg.recipes.catalogue import recipe, table
from dgseg.recipes.edit import with_objectives
from dgseg.training.recipe import (
    DataConfig,
    ModelConfig,
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
BISENET = (ModelConfig("bisenet_r18", pretrained=True), SGDConfig(lr=2.5e-2, weight_decay=1e-4))
DEEPLAB = (ModelConfig("deeplabv2_r101", pretrained=True), SGDConfig(lr=1e-3, weight_decay=5e-4))
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
    "focal": FocalDice.Config.focal(),
    "focal-weighted": FocalDice.Config.focal("median_frequency"),
    "dice": FocalDice.Config.dice(),
    "dice-weighted": FocalDice.Config.dice("median_frequency"),
    **{f"combined-{alpha}": FocalDice.Config.combined(alpha) for alpha in (0.3, 0.5, 0.7)},
}


@recipe("realtime")
def realtime() -> Recipe:
    """BiSeNet adapted from GTA5 to Cityscapes by an adversary, in real time"""
    return _adversarial(batch=8)


@recipe("realtime-streets")
def realtime_streets() -> Recipe:
    """BiSeNet adapted to fog by an adversary on the streets world"""
    base = _streets_source("jitter")
    target = TargetConfig(f"streets=fog@train,use=adaptation,{streets.SIZE}", augmented(STREETS))
    base = with_objectives(base, adversarial=Adversarial.Config(width=16))
    return replace(base, name="realtime-streets", data=replace(base.data, target=target))


@table("realtime")
def streets_rows() -> Mapping[str, Recipe]:
    """augmentations, the adversary and losses on the streets world, as in its Tables 2 to 4"""
    adversary = realtime_streets()
    return {
        **{f"augment-{row}": _streets_source(*parts) for row, parts in AUGMENTATIONS.items()},
        "adversary": adversary,
        **{row: with_objectives(adversary, ce=None, focal_dice=loss) for row, loss in LOSSES.items()},
    }


@table("realtime-cityscapes")
def supervised() -> Mapping[str, Recipe]:
    """both networks trained on Cityscapes itself: the real-time study's Table 1"""
    rows = {}
    for network, parts in (("deeplabv2", DEEPLAB), ("bisenet", BISENET)):
        plain = _source_only(parts, CITYSCAPES_TRAIN, CITYSCAPES_IMAGES, augmented(CITYSCAPES))
        rows[network] = plain
        rows[f"{network}-weighted"] = with_objectives(plain, ce=CrossEntropy.Config(class_weight="median_frequency"))
    return rows


@table("realtime-gta5")
def augmentations() -> Mapping[str, Recipe]:
    """augmentations of GTA5 without adaptation: the real-time study's Table 2"""
    return {
        **{row: _from_gta5(*parts) for row, parts in AUGMENTATIONS.items()},
        **{f"{part}-10-epochs": _from_gta5(part, epochs=10) for part in ("jitter", "crop", "flip")},
    }


@table("realtime-adversarial")
def losses() -> Mapping[str, Recipe]:
    """losses beside the adversary: the real-time study's Table 4"""
    return {row: with_objectives(_adversarial(batch=4), ce=None, focal_dice=loss) for row, loss in LOSSES.items()}


def augmented(size: tuple[int, int], *parts: str) -> RealTime:
    """With those of flip, jitter and crop that are named, each for half of the images."""
    flip, jitter, crop = (0.5 if part in parts else 0.0 for part in ("flip", "jitter", "crop"))
    return RealTime(size=size, flip=flip, jitter=jitter, crop=crop)


def steps(images: int, batch: int, epochs: int = EPOCHS) -> int:
    return math.ceil(epochs * images / batch)


def _source_only(
    network: tuple[ModelConfig, SGDConfig], source: str, count: int, augment: RealTime, epochs: int = EPOCHS
) -> Recipe:
    model, optimizer = network
    return Recipe(
        name="realtime",
        data=DataConfig(
            sources=(source,), augment=augment, batch_size=16, loaders=4, test=(CITYSCAPES_VAL,), protocol="realtime"
        ),
        model=model,
        objective={"ce": CrossEntropy.Config()},
        optimizer=optimizer,
        schedule=ScheduleConfig(steps=steps(count, 16, epochs), power=0.9),
        train=TrainConfig(precision="bf16", save_every=1000),
    )


def _from_gta5(*parts: str, epochs: int = EPOCHS) -> Recipe:
    return _source_only(BISENET, GTA5_TRAIN, GTA5_IMAGES, augmented(GTA5, *parts), epochs)


def _adversarial(batch: int) -> Recipe:
    """As many target images as source images in every step."""
    base = with_objectives(_from_gta5("jitter"), adversarial=Adversarial.Config())
    target = TargetConfig(CITYSCAPES_TRAIN, augmented(CITYSCAPES))
    return replace(
        base,
        data=replace(base.data, batch_size=batch, target=target),
        schedule=replace(base.schedule, steps=steps(GTA5_IMAGES, batch)),
    )


def _streets_source(*parts: str) -> Recipe:
    base = streets.erm_streets()
    return replace(base, data=replace(base.data, batch_size=4, augment=augmented(STREETS, *parts)))
