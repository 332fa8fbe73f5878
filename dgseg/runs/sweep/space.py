"""What is searched: fields of a recipe by their dotted names, each with a distribution and a reason."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from dgseg.recipes import flatten, override
from dgseg.training.recipe import Recipe

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
        raise ValueError("this recipe has no field that tuning/spaces.py searches")
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
