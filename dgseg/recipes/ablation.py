"""The rows of FLEX-Seg's Table 2, on the paper's model and on the streets world, and the boundary weightings of its
motivation."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from dgseg.data.samplers.hardness import HardnessConfig
from dgseg.objectives import BoundaryEmphasisConfig
from dgseg.recipes import flexseg, streets
from dgseg.training.recipe import Recipe

# name -> (GAP, UBE, HAS); the first is the plain baseline, the last the whole of FLEX-Seg.
ROWS = {
    "none": (False, False, False),
    "gap": (True, False, False),
    "ube": (False, True, False),
    "gap-ube": (True, True, False),
    "gap-ube-has": (True, True, True),
}
WEIGHTINGS: dict[str, Callable[[], BoundaryEmphasisConfig]] = {
    "amplify": BoundaryEmphasisConfig.amplify,
    "ignore": BoundaryEmphasisConfig.ignore,
    "reduce": BoundaryEmphasisConfig.reduce,
    "threshold": BoundaryEmphasisConfig.threshold,
}


def streets_row(row: str) -> Recipe:
    gap, ube, has = ROWS[row]
    found = flexseg.with_flexseg(
        streets.erm(),
        f"ablation-streets-{row}",
        gap=gap,
        ube=ube,
        hardness=streets.flexseg().sampler.hardness if has else None,
    )
    if not gap:
        return found
    return replace(found, objective=replace(found.objective, gap=streets.flexseg().objective.gap))


def daformer_row(row: str) -> Recipe:
    gap, ube, has = ROWS[row]
    return flexseg.with_flexseg(
        flexseg.erm_daformer(),
        f"ablation-daformer-{row}",
        gap=gap,
        ube=ube,
        hardness=HardnessConfig() if has else None,
    )


def weighting(base: Callable[[], Recipe], world: str, kind: str) -> Recipe:
    recipe = base()
    objective = replace(recipe.objective, ce=None, ube=WEIGHTINGS[kind]())
    return replace(recipe, name=f"boundary-{kind}-{world}", objective=objective)


def recipes() -> dict[str, tuple[Callable[[], Recipe], str]]:
    """name -> (function, what it is)."""
    found: dict[str, tuple[Callable[[], Recipe], str]] = {}
    for world, row_of, base in (
        ("streets", streets_row, streets.erm),
        ("daformer", daformer_row, flexseg.erm_daformer),
    ):
        for row in ROWS:
            parts = "plain cross-entropy" if row == "none" else row.upper().replace("-", " + ")
            found[f"ablation-{world}-{row}"] = (partial(row_of, row), f"a row of Table 2: {parts}")
        for kind in WEIGHTINGS:
            says = f"fixed weighting of boundaries: {kind}"
            found[f"boundary-{kind}-{world}"] = (partial(weighting, base, world, kind), says)
    return found
