"""BlindNet, its ablations (the paper's Tables 4, 5 and 7) and its baselines, on DeepLabV3+.

Data is looked for in ./data; --data.sources and --data.test name other places.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from dgseg.data.augment.presets import BlindNet
from dgseg.objectives import (
    CovarianceAlignment,
    CrossEntropy,
    Objective,
    SemanticContrast,
    Whitening,
)
from dgseg.recipes import flexseg, streets
from dgseg.recipes.catalogue import recipe, table
from dgseg.recipes.edit import with_objectives
from dgseg.training.recipe import (
    DataConfig,
    ModelConfig,
    Recipe,
    SamplerConfig,
    ScheduleConfig,
    SGDConfig,
    TrainConfig,
)
from dgseg.training.yaml import override

SOURCES = {"gta5": "gta5=data/gta5@train", "cityscapes": "cityscapes=data/cityscapes@train"}
TEST = {
    "cityscapes": "cityscapes=data/cityscapes@val",
    "bdd100k": "bdd100k=data/bdd100k@val",
    "mapillary": "mapillary=data/mapillary@val",
    "gta5": "gta5=data/gta5@val",
    "synthia": "synthia=data/synthia@val",
}

# Deep supervision is .4 on layer3 of the original view alone: half a cross-entropy, times 2, times the model's .4.
ORIGINAL_CE = CrossEntropy.Config(weight=0.5, aux_multiple=2)
AUGMENTED_CE = CrossEntropy.Config(weight=0.5, aux_multiple=0, view="augmented", name="ce_augmented")
COVARIANCE = CovarianceAlignment.Config()
CONTRAST = SemanticContrast.Config()


@recipe("blindnet", methods={"flexseg": flexseg.with_flexseg})
def blindnet(
    backbone: Literal["r50", "shufflenetv2", "mobilenetv2"] = "r50", source: Literal["gta5", "cityscapes"] = "gta5"
) -> Recipe:
    """BlindNet on DeepLabV3+"""
    return Recipe(
        name="blindnet",
        data=DataConfig(
            sources=(SOURCES[source],),
            augment=BlindNet(),
            batch_size=8,
            loaders=4,
            test=tuple(spec for name, spec in TEST.items() if name != source),
        ),
        model=ModelConfig(f"deeplabv3plus_{backbone}", pretrained=True, options={"instance_norms": "whitening"}),
        objective={"ce": ORIGINAL_CE, "ce_augmented": AUGMENTED_CE, "covariance": COVARIANCE, "contrast": CONTRAST},
        optimizer=SGDConfig(lr=0.01, momentum=0.9, weight_decay=5e-4),
        schedule=ScheduleConfig(steps=40_000, power=0.9),
        sampler=SamplerConfig(kind="class_uniform", share=0.5, min_pixels=1),
        train=TrainConfig(precision="bf16", save_every=2000),
    )


@recipe("blindnet-streets", methods={"flexseg": streets.with_flexseg})
def blindnet_streets() -> Recipe:
    """BlindNet's losses on the streets world"""
    base = streets.erm_streets()
    return replace(
        base,
        name="blindnet-streets",
        data=replace(base.data, augment=BlindNet(crop=(192, 384))),
        objective={
            "ce": replace(ORIGINAL_CE, aux_multiple=1),
            "ce_augmented": replace(AUGMENTED_CE, aux_multiple=1),
            # No instance norms here: the maps are normalised for the covariances alone. A class needs more pixels than
            # are sampled of it in the smallest map, which has 72.
            "covariance": replace(COVARIANCE, features=("stage1", "stage2"), normalise=True),
            "contrast": replace(
                CONTRAST, features=("stage4", "decoder"), dim=64, samples=16, anchors=200, negatives=10
            ),
        },
    )


@table("blindnet")
def streets_rows() -> Mapping[str, Recipe]:
    """BlindNet's losses alone and together on the streets world, as in its Tables 4 and 5"""
    whole = blindnet_streets()
    return {**_losses(whole), "all-flexseg": streets.with_flexseg(whole)}


@table("ablation-blindnet")
def ablation() -> Mapping[str, Recipe]:
    """BlindNet's losses and settings on GTA5: its Tables 4, 5 and 7"""
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
        **{f"cml-{weight}": {"objective.covariance.cml": weight} for weight in (0.1, 0.3)},
        **{f"ccl-{weight}": {"objective.covariance.ccl": weight} for weight in (0.1, 0.3)},
        **{f"cwcl-{weight}": {"objective.contrast.cwcl": weight} for weight in (0.2, 0.4)},
        **{f"sdcl-{weight}": {"objective.contrast.sdcl": weight} for weight in (0.2, 0.4)},
    }
    whole = blindnet()
    return {**_losses(whole), **{row: override(whole, changes) for row, changes in switches.items()}}


@table("blindnet-baselines")
def baselines() -> Mapping[str, Recipe]:
    """what BlindNet is compared with on GTA5"""
    return {
        "erm": _baseline(None, None),
        "ibn": _baseline("ibn", None),
        "iw": _baseline("whitening", Whitening.Config(kind="iw")),
        "irw": _baseline("whitening", Whitening.Config(kind="irw")),
        "robustnet": _baseline("whitening", Whitening.Config(), pair=True),
    }


def _losses(whole: Recipe) -> dict[str, Recipe]:
    """Each of its losses alone, and together as in Tables 4 and 5; cross-entropy of both views is in all."""
    covariance, contrast = whole.objective["covariance"], whole.objective["contrast"]
    assert isinstance(covariance, CovarianceAlignment.Config)
    assert isinstance(contrast, SemanticContrast.Config)
    without_sdcl = replace(contrast, sdcl=None)
    parts: dict[str, tuple[Objective.Config | None, Objective.Config | None]] = {
        "baseline": (None, None),
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
    return {row: with_objectives(whole, covariance=one, contrast=other) for row, (one, other) in parts.items()}


def _baseline(norms: str | None, whitening: Whitening.Config | None, *, pair: bool = False) -> Recipe:
    base = blindnet()
    base = replace(
        base,
        data=replace(base.data, augment=BlindNet(pair=pair)),
        model=replace(base.model, options={"instance_norms": norms}),
        objective={"ce": CrossEntropy.Config()},
    )
    return with_objectives(base, whitening=whitening)
