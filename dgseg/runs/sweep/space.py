"""What a sweep searches: fields of a recipe by their dotted names, each with a distribution and a reason.

`spaces` is the list. A recipe is searched over those of the fields that it has; --search names others than the usual
ones, and --space FILE.py takes a list of one's own.
"""

import difflib
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from dgseg.recipes import flatten, override
from dgseg.training.recipe import Recipe

Spaces = Callable[[Recipe], Sequence["Parameter"]]
Values = Mapping[str, Any]  # dotted name -> value; a tuple is text, as on the command line: "[1, 2, 4]"


@dataclass(frozen=True)
class Parameter:
    name: str
    distribution: BaseDistribution
    why: str
    default: Any  # the recipe's own value
    usual: bool = True  # searched when nobody says what is

    @property
    def short(self) -> str:
        return ".".join(self.name.split(".")[-2:])

    @property
    def log(self) -> bool:
        return isinstance(self.distribution, FloatDistribution) and self.distribution.log


def parameter(recipe: Recipe, name: str, distribution: BaseDistribution, why: str, **options: Any) -> Parameter | None:
    """None where the recipe does without the field: a baseline has no prototypes."""
    known = flatten(recipe)
    if name not in known:
        return None
    value = known[name]
    default = str(list(value)) if isinstance(value, tuple) else value
    return Parameter(name, distribution, why, **{"default": default, **options})


def chosen(parameters: Sequence[Parameter], names: Sequence[str]) -> list[Parameter]:
    """By dotted names or their last parts ("ube.alpha"); "all" is every one, and no name the usual ones."""
    if not parameters:
        raise ValueError("this recipe has no field that the sweep's space searches: name one with --space FILE.py")
    if not names:
        return [each for each in parameters if each.usual] or list(parameters)
    if list(names) == ["all"]:
        return list(parameters)
    found = []
    for name in names:
        fitting = [each for each in parameters if each.name == name or each.name.endswith(f".{name}")]
        if len(fitting) != 1:
            known = [each.name for each in parameters]
            near = [each.name for each in fitting] or difflib.get_close_matches(name, known, n=2, cutoff=0.5) or known
            raise ValueError(f"--search {name} is no single parameter of this recipe's space: {', '.join(near)}")
        if fitting[0] not in found:
            found.append(fitting[0])
    return found


def defaults(parameters: Sequence[Parameter]) -> dict[str, Any] | None:
    """The recipe's own values, as the first trial has them; None where one of them lies outside its distribution."""
    return None if outside(parameters) else {each.name: each.default for each in parameters}


def outside(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Those that are searched where the recipe's own value is not."""
    return [each for each in parameters if not _contains(each.distribution, each.default)]


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if getattr(distribution, "log", False) and not value > 0:  # asked for its logarithm, Optuna raises
        return False
    return bool(distribution._contains(distribution.to_internal_repr(value)))


def applied(recipe: Recipe, values: Values) -> Recipe:
    return override(recipe, values)


def spaces(recipe: Recipe) -> list[Parameter]:
    rate = recipe.optimizer.lr
    hardness = recipe.sampler.hardness
    updates = recipe.schedule.steps / hardness.window if hardness else 1.0
    found = [
        parameter(
            recipe,
            "objective.ube.alpha",
            FloatDistribution(0.5, 12.0, log=True),
            "How much more a boundary pixel weighs: below 1 it hardly does, beyond 10 little else is learnt.",
        ),
        parameter(
            recipe,
            "objective.gap.temperature",
            FloatDistribution(0.03, 0.3, log=True),
            "τ decides whether the nearest wrong prototypes repel a pixel alone (low), or all alike (high).",
        ),
        parameter(
            recipe,
            "objective.gap.weight",
            FloatDistribution(0.05, 2.0, log=True),
            "λ_gap sets contrast against cross-entropy, whose sizes differ with the number of classes and τ.",
        ),
        parameter(
            recipe,
            "sampler.hardness.steepness",
            FloatDistribution(0.005, 0.5, log=True),
            "k turns the change from random draws to hard ones into a slope over the whole run (low) or a step (high).",
        ),
        parameter(
            recipe,
            "sampler.hardness.midpoint",
            FloatDistribution(0.2 * updates, 0.8 * updates),
            "When half of the draws are by loss: too early, the losses are still noise; too late, it changes nothing.",
            default=_half(hardness.midpoint if hardness else None, updates),
            usual=False,
        ),
        parameter(
            recipe,
            "sampler.hardness.temperature",
            FloatDistribution(0.1, 3.0, log=True),
            "τ_HAS: at 1 a softmax over losses is nearly flat, at 0.1 a few images are all that is drawn.",
            usual=False,
        ),
        parameter(
            recipe,
            "objective.gap.radii",
            CategoricalDistribution(["[1, 2, 4]", "[1, 3, 6]", "[2, 4, 8]", "[1, 2, 3]"]),
            "The bands should be as wide as images stray from their labels, which differs with size and generator.",
            usual=False,
        ),
        parameter(
            recipe,
            "optimizer.lr",
            FloatDistribution(rate / 4, rate * 4, log=True),
            "Losses that are added change the gradient's size, so the best rate of the baseline need not stay best.",
            usual=False,
        ),
    ]
    return [each for each in found if each is not None]


def _half(midpoint: float | None, updates: float) -> float:
    return updates / 2 if midpoint is None else midpoint


def load_spaces(path: str) -> Spaces:
    """The function `spaces` of a user's file, which imports `parameter` from here."""
    if not Path(path).is_file():
        raise ValueError(f"--space {path}: there is no such file")
    found = runpy.run_path(path).get("spaces")
    if not callable(found):
        raise ValueError(f"--space {path}: it defines no function spaces(recipe); tuning/README.md has an example")
    return lambda recipe: [each for each in found(recipe) if each is not None]
