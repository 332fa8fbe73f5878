"""FLEX-Seg as published: 6,000 rare-class images of GTA5 and 10,000 generated ones, scored on five real datasets.

Data is looked for in ./data, under the names below; --data.sources and --data.test name other places. The
`_paper` recipes hold every constant and convention as published; the others differ from them where METHODS of this
project knows better: batch-mean prototypes, disjoint bands, losses over valid pixels, mixed precision.
"""

from dataclasses import replace

from dgseg.data.augment.presets import HRDA, DAFormer
from dgseg.data.samplers.hardness import HardnessConfig
from dgseg.objectives import (
    BoundaryEmphasisConfig,
    CrossEntropyConfig,
    FeatureDistanceConfig,
    PrototypeContrastConfig,
)
from dgseg.training.recipe import (
    AdamWConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    Recipe,
    SamplerConfig,
    ScheduleConfig,
    TrainConfig,
)

SOURCES = ("gta5=data/gta5@all,files=data/gta5-rare-6000.txt", "generated=data/dginstyle")
TEST = (
    "cityscapes=data/cityscapes@val",
    "bdd100k=data/bdd100k@val",
    "mapillary=data/mapillary@val",
    "acdc=data/acdc@val",
    "dark_zurich=data/dark_zurich@val",
)
RARE_CLASS = SamplerConfig(kind="rare_class")
HARDNESS = HardnessConfig()


def erm_daformer() -> Recipe:
    """DAFormer (MiT-B5) on GTA5 and generated images, cross-entropy and feature distance: the paper's baseline"""
    return Recipe(
        name="erm-daformer",
        data=DataConfig(
            sources=SOURCES, augment=DAFormer(), batch_size=2, loaders=4, test=TEST, protocol="paper-daformer"
        ),
        model=ModelConfig("daformer_mitb5", pretrained=True),
        objective=ObjectiveConfig(ce=CrossEntropyConfig(), fd=FeatureDistanceConfig("daformer_mitb5")),
        optimizer=AdamWConfig(),
        schedule=ScheduleConfig(steps=40_000, warmup=1500),
        sampler=RARE_CLASS,
        train=TrainConfig(precision="bf16", save_every=2000),
    )


def flexseg_daformer() -> Recipe:
    """FLEX-Seg on DAFormer (MiT-B5)"""
    return with_flexseg(erm_daformer(), "flexseg-daformer")


def flexseg_daformer_paper() -> Recipe:
    """FLEX-Seg on DAFormer with every constant and convention as published"""
    return as_published(flexseg_daformer(), "flexseg-daformer-paper")


def erm_hrda() -> Recipe:
    """HRDA (MiT-B5) on GTA5 and generated images, cross-entropy and feature distance"""
    base = erm_daformer()
    return replace(
        base,
        name="erm-hrda",
        data=replace(base.data, augment=HRDA(), protocol="paper-hrda", test_batch=1),
        model=ModelConfig("hrda_mitb5", pretrained=True),
        # The features that HRDA is compared by are those of its context branch, which sees half the size.
        objective=replace(base.objective, fd=FeatureDistanceConfig("hrda_mitb5", image_scale=0.5)),
    )


def flexseg_hrda() -> Recipe:
    """FLEX-Seg on HRDA (MiT-B5)"""
    return with_flexseg(erm_hrda(), "flexseg-hrda")


def flexseg_hrda_paper() -> Recipe:
    """FLEX-Seg on HRDA with every constant and convention as published"""
    return as_published(flexseg_hrda(), "flexseg-hrda-paper")


def erm_daformer_r101() -> Recipe:
    """DAFormer's training with ResNet-101"""
    return _r101(erm_daformer(), "erm-daformer-r101", "daformer_r101")


def flexseg_daformer_r101() -> Recipe:
    """FLEX-Seg on DAFormer's training with ResNet-101"""
    return with_flexseg(erm_daformer_r101(), "flexseg-daformer-r101")


def erm_hrda_r101() -> Recipe:
    """HRDA with ResNet-101"""
    return _r101(erm_hrda(), "erm-hrda-r101", "hrda_r101")


def flexseg_hrda_r101() -> Recipe:
    """FLEX-Seg on HRDA with ResNet-101"""
    return with_flexseg(erm_hrda_r101(), "flexseg-hrda-r101")


def with_flexseg(
    base: Recipe, name: str, *, ube: bool = True, gap: bool = True, hardness: HardnessConfig | None = HARDNESS
) -> Recipe:
    """The base recipe with FLEX-Seg's parts; without any of them it is the base again."""
    objective = replace(
        base.objective,
        ce=None if ube else base.objective.ce,
        ube=BoundaryEmphasisConfig() if ube else None,
        gap=PrototypeContrastConfig() if gap else None,
    )
    return replace(base, name=name, objective=objective, sampler=replace(base.sampler, hardness=hardness))


def as_published(base: Recipe, name: str) -> Recipe:
    """Nested bands, one prototype update per pixel, losses over all pixels, float32."""
    objective = base.objective
    return replace(
        base,
        name=name,
        objective=replace(
            objective,
            ce=objective.ce and replace(objective.ce, denominator="all"),
            ube=objective.ube and replace(objective.ube, denominator="all"),
            gap=objective.gap and replace(objective.gap, nested=True, update="pixel"),
        ),
        train=replace(base.train, precision="float32"),
    )


def _r101(base: Recipe, name: str, model: str) -> Recipe:
    fd = base.objective.fd
    return replace(
        base,
        name=name,
        model=replace(base.model, name=model),
        objective=replace(base.objective, fd=fd and replace(fd, model=model)),
    )
