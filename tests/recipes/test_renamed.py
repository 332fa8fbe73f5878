"""Every name of version 0.1 still gives the recipe that it gave then; resolved.json holds those.

An entry says which earlier one it is like, and the leaves that differ; null: without that field.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from dgseg.recipes import RECIPES, from_words, from_yaml, named, to_yaml
from dgseg.recipes.renamed import new_words
from dgseg.training import Recipe

ENTRIES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "resolved.json").read_text())


def recorded(name: str) -> dict[str, Any]:
    """Dotted name -> value, of all fields but the name."""
    entry = dict(ENTRIES[name])
    like = entry.pop("like")
    leaves = (recorded(like) if like else {}) | entry
    return {key: value for key, value in leaves.items() if value is not None}


def leaves(recipe: Recipe) -> dict[str, Any]:
    def walk(value: Any, name: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return {key: leaf for part, each in value.items() for key, leaf in walk(each, f"{name}.{part}").items()}
        return {} if value is None else {name[1:]: value}

    fields = yaml.safe_load(to_yaml(recipe))
    del fields["name"]
    return walk(fields, "")


def under(name: str) -> Recipe:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return named(name)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_old_name_gives_the_same_recipe(name: str) -> None:
    assert leaves(under(name)) == recorded(name)


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


def test_a_saved_recipe_with_an_old_name_is_read() -> None:
    text = to_yaml(under("flexseg-daformer")).replace("name: daformer-flexseg", "name: flexseg-daformer")
    recipe = from_yaml(text)
    assert recipe.name == "flexseg-daformer"
    assert leaves(recipe) == recorded("flexseg-daformer")
