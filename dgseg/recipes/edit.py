"""Small changes to recipes that several recipes share."""

from dataclasses import replace

from dgseg.objectives import Objective
from dgseg.training.recipe import Recipe


def with_objectives(base: Recipe, **parts: Objective.Config | None) -> Recipe:
    """Objectives by name: set, replaced, or with None removed. New ones take the place of the first that is removed, or
    the last place."""
    new = {name: config for name, config in parts.items() if config is not None and name not in base.objective}
    objective: dict[str, Objective.Config] = {}
    for name, old in base.objective.items():
        config = parts.get(name, old)
        if config is not None:
            objective[name] = config
        else:
            objective, new = {**objective, **new}, {}
    return replace(base, objective={**objective, **new})
