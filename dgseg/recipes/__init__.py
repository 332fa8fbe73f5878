"""One function per published system or preset, returning a complete Recipe. RECIPES has them by their names on the
command line; a recipe's own `name` is that name.

streets    FLEX-Seg and its baseline on the embedded world: the default job
flexseg    FLEX-Seg as published
ablation   the rows of its Table 2, and fixed boundary weightings
blindnet   BlindNet, its ablations and baselines
realtime   domain adaptation in real time: the study's tables
detect     Generalize or Detect: its stages, CG-Aug's ablation, baselines
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from dgseg.recipes import ablation, blindnet, detect, flexseg, realtime, streets
from dgseg.training.recipe import Recipe
from dgseg.training.yaml import differences, flatten, from_yaml, override, to_yaml

__all__ = ["RECIPES", "Named", "differences", "flatten", "from_yaml", "named", "override", "to_yaml"]


@dataclass(frozen=True)
class Named:
    """A recipe's function and one line on what it is."""

    make: Callable[[], Recipe]
    says: str


def _documented(*functions: Callable[[], Recipe]) -> dict[str, Named]:
    return {function().name: Named(function, (function.__doc__ or "").strip()) for function in functions}


RECIPES: dict[str, Named] = {
    **_documented(
        streets.flexseg,
        streets.erm,
        flexseg.flexseg_daformer,
        flexseg.flexseg_hrda,
        flexseg.flexseg_daformer_paper,
        flexseg.flexseg_hrda_paper,
        flexseg.flexseg_daformer_r101,
        flexseg.flexseg_hrda_r101,
        flexseg.erm_daformer,
        flexseg.erm_hrda,
        flexseg.erm_daformer_r101,
        flexseg.erm_hrda_r101,
    ),
    **_documented(
        blindnet.blindnet,
        blindnet.from_cityscapes,
        blindnet.with_flexseg,
        blindnet.on_streets,
        blindnet.with_flexseg_on_streets,
        realtime.on_streets,
        detect.stage1,
        detect.stage2,
        detect.streets_start,
    ),
    **{
        name: Named(make, says)
        for room in (ablation, blindnet, realtime, detect)
        for name, (make, says) in room.recipes().items()
    },
}


def named(name: str) -> Recipe:
    """By the name on the command line; underscores do as well."""
    wanted = name.replace("_", "-")
    if wanted not in RECIPES:
        near = difflib.get_close_matches(wanted, RECIPES, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"no recipe {name!r}{hint} There are: {', '.join(RECIPES)}")
    return RECIPES[wanted].make()
