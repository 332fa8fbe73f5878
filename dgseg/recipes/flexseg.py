"""FLEX-Seg's parts on a recipe, its published conventions, and the rows of its tables."""

from dataclasses import replace

from dgseg.data.samplers.hardness import HardnessConfig
from dgseg.objectives import BoundaryEmphasis, CrossEntropy, PrototypeContrast
from dgseg.recipes.edit import with_objectives
from dgseg.training.recipe import Recipe
from dgseg.training.yaml import flatten, override


def with_flexseg(base: Recipe, *, dim: int = 256, window: int = 50) -> Recipe:
    """GAP, HAS, and UBE in the place of cross-entropy. dim: of the decoder's map; window: steps between updates"""
    ce = base.objective["ce"]
    assert isinstance(ce, CrossEntropy.Config), "UBE takes the place of a cross-entropy"
    ube = BoundaryEmphasis.Config(weight=ce.weight, aux_multiple=ce.aux_multiple)
    base = with_objectives(base, ce=None, ube=ube, gap=PrototypeContrast.Config(dim=dim))
    return replace(base, sampler=replace(base.sampler, hardness=HardnessConfig(window=window)))


def as_published(base: Recipe) -> Recipe:
    """Nested bands, one prototype update per pixel, losses over all pixels, float32."""
    published = {
        "objective.ce.denominator": "all",
        "objective.ube.denominator": "all",
        "objective.gap.nested": True,
        "objective.gap.update": "pixel",
        "train.precision": "float32",
    }
    present = flatten(base)
    return override(base, {name: value for name, value in published.items() if name in present})


def ablation_rows(base: Recipe, whole: Recipe) -> dict[str, Recipe]:
    """The paper's Table 2: from the plain baseline to all of FLEX-Seg."""
    ube, gap = whole.objective["ube"], whole.objective["gap"]
    return {
        "baseline": base,
        "gap": with_objectives(base, gap=gap),
        "ube": with_objectives(base, ce=None, ube=ube),
        "gap-ube": with_objectives(base, ce=None, ube=ube, gap=gap),
        "gap-ube-has": whole,
    }


def boundary_rows(base: Recipe) -> dict[str, Recipe]:
    """The fixed weightings of its motivation."""
    weightings = {
        "amplify": BoundaryEmphasis.Config.amplify(),
        "ignore": BoundaryEmphasis.Config.ignore(),
        "reduce": BoundaryEmphasis.Config.reduce(),
        "threshold": BoundaryEmphasis.Config.threshold(),
    }
    return {row: with_objectives(base, ce=None, ube=weighting) for row, weighting in weightings.items()}
