"""Recipes as YAML, and their fields by dotted name: saved with every run, the same run again when read."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

import yaml

from dgseg.training.recipe import Recipe

KIND = "class"  # which of a union's dataclasses a mapping is


def to_yaml(recipe: Recipe) -> str:
    text: str = yaml.safe_dump(_plain(recipe, Recipe), sort_keys=False, allow_unicode=True)
    return text


def from_yaml(text: str) -> Recipe:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"this is no YAML: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("a recipe's YAML is a mapping of its fields; see recipe.yaml in any run's folder")
    made: Recipe = _typed(found, Recipe, "recipe")
    return made


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted name -> value, leaves only. What a recipe does without is one leaf: None."""
    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if dataclasses.is_dataclass(value):
            for each in dataclasses.fields(value):
                walk(getattr(value, each.name), f"{name}.{each.name}" if name else each.name)
        elif isinstance(value, dict) and value:
            for key, each in value.items():
                walk(each, f"{name}.{key}")
        else:
            found[name] = value

    walk(recipe, "")
    return found


def dotted(values: Mapping[str, Any], name: str = "") -> dict[str, str]:
    """A recipe's YAML as text by dotted name, "schedule.steps": "500"; with the class where there is a choice."""
    found: dict[str, str] = {}
    for key, value in values.items():
        inner = f"{name}.{key}" if name else str(key)
        if isinstance(value, dict) and value:
            found |= dotted(value, inner)
        elif isinstance(value, list):
            found[inner] = ", ".join(str(each) for each in value) or "none"
        else:
            found[inner] = "none" if value is None or value == {} else str(value)
    return found


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    before, after = flatten(old), flatten(new)
    names = [*before, *(name for name in after if name not in before)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values by dotted name. Text becomes what the field takes: "5" for an alpha is 5.0."""
    for name, value in changes.items():
        recipe = _replaced(recipe, name.split("."), value, name, flatten(recipe))
    return recipe


def _replaced(config: Any, path: list[str], value: Any, name: str, known: Mapping[str, Any]) -> Any:
    hints = _hints(type(config))
    if path[0] not in hints:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise ValueError(f"a recipe has no field {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    old = getattr(config, path[0])
    if len(path) == 1:
        return dataclasses.replace(config, **{path[0]: _typed(value, hints[path[0]], name)})
    if isinstance(old, dict):
        return dataclasses.replace(config, **{path[0]: old | {".".join(path[1:]): _scalar(value)}})
    if old is None:
        raise ValueError(
            f"{name!r}: this recipe does without {'.'.join(name.split('.')[: -len(path) + 1])}; "
            "start from one that has it"
        )
    if not dataclasses.is_dataclass(old):
        raise ValueError(f"{name!r}: {path[0]} is a value, and has no field {path[1]!r}")
    return dataclasses.replace(config, **{path[0]: _replaced(old, path[1:], value, name, known)})


def _plain(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = _hints(type(value))
        found = {each.name: _plain(getattr(value, each.name), hints[each.name]) for each in dataclasses.fields(value)}
        several = len([each for each in _choices(hint) if dataclasses.is_dataclass(each)]) > 1
        return {KIND: type(value).__name__, **found} if several else found
    if isinstance(value, list | tuple):
        return [_plain(each, None) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each, None) for key, each in value.items()}
    return value


def _typed(value: Any, hint: Any, name: str) -> Any:
    """What YAML, a command line or a sweep gave, as the field's type has it; a ValueError naming the field if not."""
    choices = _choices(hint)
    if value is None or (value == "None" and type(None) in choices):
        if type(None) in choices:
            return None
        raise ValueError(f"{name} cannot be None; it takes {_named(hint)}")
    classes = [each for each in choices if dataclasses.is_dataclass(each)]
    if isinstance(value, Mapping) and classes:
        return _dataclass(value, classes, name)
    if any(isinstance(value, each) for each in classes if isinstance(each, type)):
        return value
    for choice in choices:
        origin = get_origin(choice)
        if origin is typing.Literal and (value in get_args(choice) and type(value) in map(type, get_args(choice))):
            return value
        if choice is Any or (isinstance(choice, type) and type(value) is choice):
            return value
        if choice is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if origin is tuple and isinstance(value, list | tuple):
            inner = get_args(choice)
            if len(inner) == 2 and inner[1] is Ellipsis:
                return tuple(_typed(each, inner[0], name) for each in value)
            if len(inner) == len(value):
                return tuple(_typed(each, kind, name) for each, kind in zip(value, inner, strict=True))
        if origin is dict and isinstance(value, Mapping):
            return dict(value)
    if isinstance(value, str):
        parsed = _scalar(value)
        if not isinstance(parsed, str):
            return _typed(parsed, hint, name)
    raise ValueError(f"{name} is {value!r}; it takes {_named(hint)}")


def _dataclass(value: Mapping[str, Any], classes: list[Any], name: str) -> Any:
    rest = dict(value)
    kind = rest.pop(KIND, None)
    chosen = classes[0] if kind is None and len(classes) == 1 else None
    for each in classes:
        if each.__name__ == kind:
            chosen = each
    if chosen is None:
        raise ValueError(f"{name}: {KIND} is {kind!r}; there are {', '.join(each.__name__ for each in classes)}")
    hints = _hints(chosen)
    for key in rest:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            raise ValueError(f"{name} has no field {key!r}" + (f"; did you mean {near[0]}?" if near else ""))
    made = {key: _typed(each, hints[key], f"{name}.{key}") for key, each in rest.items()}
    try:
        return chosen(**made)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _scalar(text: Any) -> Any:
    """Text as a command line has it: 5, 1e-4, true, [1, 2]."""
    if not isinstance(text, str):
        return text
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    try:
        return float(found) if isinstance(found, str) else found  # YAML takes 1e-4 for text
    except ValueError:
        return found


def _choices(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [each for one in get_args(hint) for each in _choices(one)]
    return [hint]


def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


def _named(hint: Any) -> str:
    def one(choice: Any) -> str:
        if choice is type(None):
            return "None"
        if get_origin(choice) is typing.Literal:
            return " or ".join(map(repr, get_args(choice)))
        return choice.__name__ if isinstance(choice, type) and get_origin(choice) is None else str(choice)

    return " or ".join(one(choice) for choice in _choices(hint))
