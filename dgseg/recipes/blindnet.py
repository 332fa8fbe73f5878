"""BlindNet, its ablations (the paper's Tables 4, 5 and 7) and its baselines, on DeepLabV3+.

Data is looked for in ./data; --data.sources and --data.test name other places.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from dgseg.data.augment.presets import BlindNet
from dgseg.objectives import (
    CovarianceAlignmentConfig,
    CrossEntropyConfig,
    SemanticContrastConfig,
    WhiteningConfig,
)
from dgseg.recipes import flexseg, streets
from dgseg.training.recipe import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    Recipe,
    SamplerConfig,
    ScheduleConfig,
    SGDConfig,
    TrainConfig,
)
from dgseg.training.yaml import override

MODELS = {
    "r50": "deeplabv3plus_r50",
    "shufflenetv2": "deeplabv3plus_shufflenetv2",
    "mobilenetv2": "deeplabv3plus_mobilenetv2",
}
REAL = {
    "cityscapes": "cityscapes=data/cityscapes@val",
    "bdd100k": "bdd100k=data/bdd100k@val",
    "mapillary": "mapillary=data/mapillary@val",
}
SYNTHETIC = {"gta5": "gta5=data/gta5@val", "synthia": "synthia=data/synthia@val"}

# Deep supervision is .4 on layer3 of the original view alone: half a cross-entropy, times 2, times the model's .4.
ORIGINAL_CE = CrossEntropyConfig(weight=0.5, aux_multiple=2)
AUGMENTED_CE = CrossEntropyConfig(weight=0.5, aux_multiple=0, view="augmented", name="ce_augmented")
COVARIANCE = CovarianceAlignmentConfig()
CONTRAST = SemanticContrastConfig()
WHOLE = ObjectiveConfig(ce=ORIGINAL_CE, ce_augmented=AUGMENTED_CE, covariance=COVARIANCE, contrast=CONTRAST)


def blindnet() -> Recipe:
    """BlindNet on DeepLabV3+ with ResNet-50, from GTA5"""
    return Recipe(
        name="blindnet",
        data=DataConfig(
            sources=("gta5=data/gta5@train",),
            augment=BlindNet(),
            batch_size=8,
            loaders=4,
            test=(*REAL.values(), SYNTHETIC["synthia"]),
        ),
        model=ModelConfig(MODELS["r50"], pretrained=True, options={"instance_norms": "whitening"}),
        objective=WHOLE,
        optimizer=SGDConfig(lr=0.01, momentum=0.9, weight_decay=5e-4),
        schedule=ScheduleConfig(steps=40_000, power=0.9),
        sampler=SamplerConfig(kind="class_uniform", share=0.5, min_pixels=1),
        train=TrainConfig(precision="bf16", save_every=2000),
    )


def from_cityscapes() -> Recipe:
    """BlindNet from Cityscapes"""
    base = blindnet()
    test = (REAL["bdd100k"], REAL["mapillary"], *SYNTHETIC.values())
    data = replace(base.data, sources=("cityscapes=data/cityscapes@train",), test=test)
    return replace(base, name="blindnet-cityscapes", data=data)


def with_flexseg() -> Recipe:
    """BlindNet's losses and FLEX-Seg's in one run"""
    whole = flexseg.with_flexseg(blindnet(), "blindnet-flexseg")
    return _as_original_ce(whole, ORIGINAL_CE)


def on_streets() -> Recipe:
    """BlindNet's losses on the streets world"""
    base = streets.erm()
    return replace(
        base,
        name="blindnet-streets",
        data=replace(base.data, augment=BlindNet(crop=(192, 384))),
        objective=ObjectiveConfig(
            ce=replace(ORIGINAL_CE, aux_multiple=1),
            ce_augmented=replace(AUGMENTED_CE, aux_multiple=1),
            # No instance norms here: the maps are normalised for the covariances alone. A class needs more pixels than
            # are sampled of it in the smallest map, which has 72.
            covariance=replace(COVARIANCE, features=("stage1", "stage2"), normalise=True),
            contrast=replace(CONTRAST, features=("stage4", "decoder"), dim=64, samples=16, anchors=200, negatives=10),
        ),
    )


def with_flexseg_on_streets() -> Recipe:
    """BlindNet's losses and FLEX-Seg's in one run on the streets world"""
    base, ours = on_streets(), streets.flexseg()
    whole = flexseg.with_flexseg(base, "blindnet-flexseg-streets", hardness=ours.sampler.hardness)
    whole = replace(whole, objective=replace(whole.objective, gap=ours.objective.gap))
    return _as_original_ce(whole, base.objective.ce)


def _as_original_ce(whole: Recipe, ce: CrossEntropyConfig | None) -> Recipe:
    """UBE in the place of the original view's cross-entropy has its weights."""
    ube = whole.objective.ube
    assert ube is not None
    assert ce is not None
    ube = replace(ube, weight=ce.weight, aux_multiple=ce.aux_multiple)
    return replace(whole, objective=replace(whole.objective, ube=ube))


def rows(whole: ObjectiveConfig) -> dict[str, ObjectiveConfig]:
    """Each of its losses alone, and together as in Tables 4 and 5."""
    covariance, contrast = whole.covariance, whole.contrast
    assert covariance is not None
    assert contrast is not None
    without_sdcl = replace(contrast, sdcl=None)
    parts = {
        "none": (None, None),
        "cm": (replace(covariance, ccl=None), None),
        "cc": (replace(covariance, cml=None), None),
        "cm-cc": (covariance, None),
        "cwcl": (None, without_sdcl),
        "sdcl": (None, replace(contrast, cwcl=None)),
        "cwcl-sdcl": (None, contrast),
        "cm-cc-cwcl": (covariance, without_sdcl),
        "all": (covariance, contrast),
        "cc-whitening": (replace(covariance, cross="whitening"), None),
    }
    return {row: replace(whole, covariance=one, contrast=other) for row, (one, other) in parts.items()}


def variant(name: str, objective: ObjectiveConfig, base: Callable[[], Recipe] = blindnet) -> Recipe:
    return replace(base(), name=name, objective=objective)


def changed(name: str, changes: dict[str, Any]) -> Recipe:
    return replace(override(blindnet(), changes), name=name)


def baseline(name: str, norms: str | None, whitening: WhiteningConfig | None, pair: bool = False) -> Recipe:
    base = blindnet()
    return replace(
        base,
        name=name,
        data=replace(base.data, augment=BlindNet(pair=pair)),
        model=replace(base.model, options={"instance_norms": norms}),
        objective=ObjectiveConfig(ce=CrossEntropyConfig(), whitening=whitening),
    )


def on_model(name: str, model: str) -> Recipe:
    base = blindnet()
    return replace(base, name=name, model=replace(base.model, name=MODELS[model]))


def recipes() -> dict[str, tuple[Callable[[], Recipe], str]]:
    """name -> (function, what it is)."""
    found: dict[str, tuple[Callable[[], Recipe], str]] = {}

    def add(name: str, says: str, make: Callable[..., Recipe], *arguments: Any) -> None:
        found[name] = (partial(make, name, *arguments), says)

    for model in ("shufflenetv2", "mobilenetv2"):
        add(f"blindnet-{model}", f"BlindNet on DeepLabV3+ with {model}", on_model, model)
    add("blindnet-erm", "BlindNet's baseline: cross-entropy", baseline, None, None)
    add("blindnet-ibn", "IBN-Net, a baseline of BlindNet's", baseline, "ibn", None)
    for kind in ("iw", "irw"):
        says = f"instance whitening ({kind.upper()}), a baseline of BlindNet's"
        add(f"blindnet-{kind}", says, baseline, "whitening", WhiteningConfig(kind=kind))
    says = "RobustNet (ISW), a baseline of BlindNet's"
    add("blindnet-robustnet", says, baseline, "whitening", WhiteningConfig(), True)
    for world, base in (("", blindnet), ("streets-", on_streets)):
        on = " on the streets world" if world else ""
        for row, objective in rows(base().objective).items():
            says = f"BlindNet with these of its losses{on}: {row}"
            add(f"ablation-blindnet-{world}{row}", says, variant, objective, base)
    switches: dict[str, dict[str, Any]] = {
        "classes-10": {"objective.contrast.classes": 10},
        "samples-10": {"objective.contrast.samples": 10},
        "samples-100": {"objective.contrast.samples": 100},
        "head-individual": {"objective.contrast.head": "individual"},
        "head-stop-gradient": {"objective.contrast.head": "stop_gradient"},
        "as-released": {
            "objective.contrast.released_negatives": True,
            "objective.contrast.anchors_require_right": True,
        },
    }
    for part, values in (
        ("covariance.cml", (0.1, 0.3)),
        ("covariance.ccl", (0.1, 0.3)),
        ("contrast.cwcl", (0.2, 0.4)),
        ("contrast.sdcl", (0.2, 0.4)),
    ):
        for value in values:
            switches[f"{part.split('.')[1]}-{value}"] = {f"objective.{part}": value}
    for row, changes in switches.items():
        add(f"ablation-blindnet-{row}", f"a row of BlindNet's Tables 5 and 7: {row}", changed, changes)
    return found
