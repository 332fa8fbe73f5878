"""FLEX-Seg and its baselines on the embedded streets world: minutes on two CPU cores, no download."""

from dataclasses import replace

from dgseg.data.augment.presets import Streets
from dgseg.data.samplers.hardness import HardnessConfig
from dgseg.data.streets.domains import TARGETS, VALIDATION
from dgseg.objectives import BoundaryEmphasisConfig, CrossEntropyConfig, PrototypeContrastConfig
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

SIZE = "size=192x384"
HELD_OUT = "streets=game@test,length=100," + SIZE  # the source's own test range


def erm() -> Recipe:
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
        objective=ObjectiveConfig(ce=CrossEntropyConfig()),
        optimizer=AdamWConfig(lr=2e-3, weight_decay=0.01, head_multiple=1.0, undecayed="vectors"),
        schedule=ScheduleConfig(steps=1000, power=0.9, warmup=50),
        train=TrainConfig(save_every=250),
    )


def flexseg() -> Recipe:
    """FLEX-Seg on the streets world: the default job"""
    return replace(
        erm(),
        name="flexseg-streets",
        objective=ObjectiveConfig(ube=BoundaryEmphasisConfig(), gap=PrototypeContrastConfig(dim=64)),
        sampler=SamplerConfig(hardness=HardnessConfig(window=5)),
    )
