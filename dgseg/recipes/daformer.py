"""DAFormer and HRDA as FLEX-Seg trains them: 6,000 rare-class images of GTA5 and 10,000 generated ones, scored on five
real datasets.

Data is looked for in ./data, under the names below; --data.sources and --data.test name other places. `--as published`
has nested bands, one prototype update per pixel, losses over all pixels and float32, as the paper. Without it bands are
disjoint, prototypes are updated once per batch, losses are means over valid pixels, and precision is mixed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from dgseg.data.augment.presets import HRDA, DAFormer
from dgseg.objectives import CrossEntropy, FeatureDistance
from dgseg.recipes import flexseg
from dgseg.recipes.catalogue import recipe, table
from dgseg.recipes.edit import with_objectives
from dgseg.training.recipe import (
    AdamWConfig,
    DataConfig,
    ModelConfig,
    Recipe,
    SamplerConfig,
    ScheduleConfig,
    TrainConfig,
)

Backbone = Literal["mitb5", "r101", "mitb0"]
SOURCES = ("gta5=data/gta5@all,files=data/gta5-rare-6000.txt", "generated=data/dginstyle")
TEST = (
    "cityscapes=data/cityscapes@val",
    "bdd100k=data/bdd100k@val",
    "mapillary=data/mapillary@val",
    "acdc=data/acdc@val",
    "dark_zurich=data/dark_zurich@val",
)
METHODS = {"flexseg": flexseg.with_flexseg}


@recipe("daformer", methods=METHODS, published=flexseg.as_published)
def daformer(backbone: Backbone = "mitb5") -> Recipe:
    """DAFormer on GTA5 and generated images: FLEX-Seg's baseline"""
    return Recipe(
        name="daformer",
        data=DataConfig(
            sources=SOURCES, augment=DAFormer(), batch_size=2, loaders=4, test=TEST, protocol="paper-daformer"
        ),
        model=ModelConfig(f"daformer_{backbone}", pretrained=True),
        objective={"ce": CrossEntropy.Config(), "fd": FeatureDistance.Config()},
        optimizer=AdamWConfig(),
        schedule=ScheduleConfig(steps=40_000, warmup=1500),
        sampler=SamplerConfig(kind="rare_class"),
        train=TrainConfig(precision="bf16", save_every=2000),
    )


@recipe("hrda", methods=METHODS, published=flexseg.as_published)
def hrda(backbone: Backbone = "mitb5") -> Recipe:
    """HRDA on the same data: twice the size, two scales"""
    base = daformer()
    # The features that HRDA is compared by are those of its context branch, which sees half the size.
    base = with_objectives(base, fd=FeatureDistance.Config(image_scale=0.5))
    return replace(
        base,
        name="hrda",
        data=replace(base.data, augment=HRDA(), protocol="paper-hrda", test_batch=1),
        model=ModelConfig(f"hrda_{backbone}", pretrained=True),
    )


@table("ablation-daformer")
def ablation() -> Mapping[str, Recipe]:
    """FLEX-Seg's parts on DAFormer: its Table 2"""
    return flexseg.ablation_rows(daformer(), flexseg.with_flexseg(daformer()))


@table("boundary-daformer")
def boundary() -> Mapping[str, Recipe]:
    """fixed weightings of boundary pixels on DAFormer: FLEX-Seg's motivation"""
    return flexseg.boundary_rows(daformer())
