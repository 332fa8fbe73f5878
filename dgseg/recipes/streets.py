"""FLEX-Seg and its baseline on the embedded streets world: minutes on two CPU cores, no download."""

from collections.abc import Mapping

from dgseg.data.augment.presets import Streets
from dgseg.data.streets.domains import TARGETS, VALIDATION
from dgseg.objectives import CrossEntropy
from dgseg.recipes import flexseg
from dgseg.recipes.catalogue import recipe, table
from dgseg.training.recipe import (
    AdamWConfig,
    DataConfig,
    ModelConfig,
    Recipe,
    ScheduleConfig,
    TrainConfig,
)

SIZE = "size=192x384"
HELD_OUT = "streets=game@test,length=100," + SIZE  # the source's own test range


@recipe("flexseg-streets")
def flexseg_streets() -> Recipe:
    """FLEX-Seg on the streets world: the default job"""
    return with_flexseg(erm_streets())


@recipe("erm-streets")
def erm_streets() -> Recipe:
    """plain cross-entropy on the streets world"""
    return Recipe(
        name="erm-streets",
        data=DataConfig(
            sources=(f"streets=game@train,{SIZE}", f"streets=generated@train,misalignment=2,{SIZE}"),
            # The paper's 6,000 rendered and 10,000 generated images.
            shares=(0.375, 0.625),
            augment=Streets(),
            batch_size=8,
            loaders=1,
            validation=(f"streets={VALIDATION}@val,{SIZE}",),
            test=(HELD_OUT, *(f"streets={domain}@test,{SIZE}" for domain in TARGETS)),
            protocol="streets",
            test_batch=8,
        ),
        model=ModelConfig("bisenet_mini"),
        objective={"ce": CrossEntropy.Config()},
        optimizer=AdamWConfig(lr=2e-3, weight_decay=0.01, head_multiple=1.0, undecayed="vectors"),
        schedule=ScheduleConfig(steps=1000, power=0.9, warmup=50),
        train=TrainConfig(save_every=250),
    )


def with_flexseg(base: Recipe) -> Recipe:
    """As wide as bisenet_mini's decoder, and ten times as often as in the paper's forty times longer run."""
    return flexseg.with_flexseg(base, dim=64, window=5)


@table("ablation")
def ablation() -> Mapping[str, Recipe]:
    """FLEX-Seg's parts on the streets world, as in its Table 2"""
    return flexseg.ablation_rows(erm_streets(), flexseg_streets())


@table("boundary")
def boundary() -> Mapping[str, Recipe]:
    """fixed weightings of boundary pixels on the streets world, as in FLEX-Seg's motivation"""
    return flexseg.boundary_rows(erm_streets())
