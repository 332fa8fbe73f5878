"""Small changes to recipes that several recipes share."""

from dataclasses import replace
from typing import Any

from dgseg.training.recipe import Recipe


def with_objectives(base: Recipe, **parts: Any) -> Recipe:
    """Objectives by name: set, replaced, or with None removed."""
    return replace(base, objective=replace(base.objective, **parts))
