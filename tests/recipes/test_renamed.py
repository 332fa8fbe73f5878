"""Every name of version 0.1 still gives the recipe that it gave then; resolved.json holds those as they were saved.

An entry says which earlier one it is like, and the values by dotted name that differ; null: without that field.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from dgseg.recipes import RECIPES, differences, from_words, from_yaml, named, override
from dgseg.recipes.renamed import new_words
from dgseg.training import Recipe

ENTRIES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "resolved.json").read_text())


def values(name: str) -> dict[str, Any]:
    """Dotted name -> value, of all fields but the name."""
    entry = dict(ENTRIES[name])
    like = entry.pop("like")
    merged = (values(like) if like else {}) | entry
    return {key: value for key, value in merged.items() if value is not None}


def saved(name: str) -> Recipe:
    """From the recipe.yaml that a run of version 0.1 has in its folder."""
    fields: dict[str, Any] = {"name": name}
    for dotted, value in values(name).items():
        part, *path = dotted.split(".")
        inside = fields
        for key in path:
            inside, part = inside.setdefault(part, {}), key
        inside[part] = None if value == "None" else value
    recipe = from_yaml(yaml.safe_dump(fields))
    if "fd" in recipe.objective:  # it named the model that is trained, which is its default now
        recipe = override(recipe, {"objective.fd.model": None})
    return recipe


def under(name: str) -> Recipe:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return named(name)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_old_name_gives_the_same_recipe(name: str) -> None:
    assert set(differences(saved(name), under(name))) <= {"name"}


def test_all_are_there() -> None:
    assert len(ENTRIES) == 142
    for name in ENTRIES:
        assert (new_words(name) is None) == (name in RECIPES)
    assert new_words("flexseg") is None


def test_an_old_name_is_told_the_new_one() -> None:
    with pytest.warns(FutureWarning, match="flexseg-hrda-paper is now hrda --with flexseg --as published"):
        recipe = named("flexseg_hrda_paper")
    assert recipe.name == "hrda-flexseg-published"
    more = from_words(["flexseg-hrda-paper", "--model.backbone", "r101"])
    assert " ".join(more.words) == "hrda --model.backbone r101 --with flexseg --as published"
