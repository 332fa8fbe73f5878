"""FLEX-Seg's parts on a recipe, its published conventions, and the rows of its tables."""

from dataclasses import replace

from dgseg.data.samplers.hardness import HardnessConfig
from dgseg.objectives import BoundaryEmphasisConfig, PrototypeContrastConfig
from dgseg.recipes.edit import with_objectives
from dgseg.training.recipe import Recipe


def with_flexseg(base: Recipe, *, dim: int = 256, window: int = 50) -> Recipe:
    """GAP, HAS, and UBE in the place of cross-entropy. dim: of the decoder's map; window: steps between updates"""
    ce = base.objective.ce
    assert ce is not None, "UBE takes the place of a cross-entropy"
    ube = BoundaryEmphasisConfig(weight=ce.weight, aux_multiple=ce.aux_multiple)
    base = with_objectives(base, ce=None, ube=ube, gap=PrototypeContrastConfig(dim=dim))
    return replace(base, sampler=replace(base.sampler, hardness=HardnessConfig(window=window)))


def as_published(base: Recipe) -> Recipe:
    """Nested bands, one prototype update per pixel, losses over all pixels, float32."""
    objective = base.objective
    base = with_objectives(
        base,
        ce=objective.ce and replace(objective.ce, denominator="all"),
        ube=objective.ube and replace(objective.ube, denominator="all"),
        gap=objective.gap and replace(objective.gap, nested=True, update="pixel"),
    )
    return replace(base, train=replace(base.train, precision="float32"))


def ablation_rows(base: Recipe, whole: Recipe) -> dict[str, Recipe]:
    """The paper's Table 2: from the plain baseline to all of FLEX-Seg."""
    ube, gap = whole.objective.ube, whole.objective.gap
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
        "amplify": BoundaryEmphasisConfig.amplify(),
        "ignore": BoundaryEmphasisConfig.ignore(),
        "reduce": BoundaryEmphasisConfig.reduce(),
        "threshold": BoundaryEmphasisConfig.threshold(),
    }
    return {row: with_objectives(base, ce=None, ube=weighting) for row, weighting in weightings.items()}
