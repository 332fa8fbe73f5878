"""Recipes as YAML, and their fields by dotted name: saved with every run, the same run again when read."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Union, get_args, get_origin

import yaml

from dgseg.objectives import OBJECTIVES
from dgseg.registry import Registry, registry_of
from dgseg.training.recipe import Recipe

CLASS = "class"  # which of a union's dataclasses a mapping is
KIND, MODULE = "kind", "module"  # which registered part it is; what to import for one that is not ours


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
    """Dotted name -> value, leaves only, with the kind where there is a choice. What a recipe does without is one leaf,
    None."""
    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        registry = registry_of(value)
        if registry is not None:
            found[f"{name}.{KIND}"] = registry.kind(value)
        if dataclasses.is_dataclass(value):
            for each in dataclasses.fields(value):
                walk(getattr(value, each.name), f"{name}.{each.name}" if name else each.name)
        elif isinstance(value, Mapping) and value:
            for key, each in value.items():
                walk(each, f"{name}.{key}")
        else:
            found[name] = value

    walk(recipe, "")
    return found


def dotted(values: Mapping[str, Any], name: str = "") -> dict[str, str]:
    """A recipe's YAML as text by dotted name, "schedule.steps": "500"; with the kind where there is a choice."""
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
    """The recipe with other values by dotted name. Text becomes what the field takes: "5" for an alpha is 5.0. A part
    is given by its kind, its config or its fields: {"objective.fd": "feature_distance"}; None does without it."""
    for name, value in changes.items():
        recipe = _replaced(recipe, name.split("."), value, name, flatten(recipe))
    return recipe


def _replaced(config: Any, path: list[str], value: Any, name: str, known: Mapping[str, Any]) -> Any:
    """The config with another value at the path; `name` and `known` are for messages."""
    first, rest = path[0], path[1:]
    if isinstance(config, Mapping):
        return _replaced_part(config, first, rest, value, name, known)
    hints, registry = _hints(type(config)), registry_of(config)
    if first == KIND and first not in hints and registry is not None and not rest:
        return _part(value, registry, name)
    if first not in hints:
        raise ValueError(f"a recipe has no field {name!r}{_nearest(name, known)}")
    old = getattr(config, first)
    if not rest:
        new = _typed(value, hints[first], name)
    elif dataclasses.is_dataclass(old) or get_origin(hints[first]) is Mapping:
        new = _replaced(old, rest, value, name, known)
    elif isinstance(old, dict):
        new = old | {".".join(rest): _scalar(value)}
    elif old is None:
        raise ValueError(
            f"{name!r}: this recipe does without {name.removesuffix('.' + '.'.join(rest))}; start from one that has it"
        )
    else:
        raise ValueError(f"{name!r}: {first} is a value, and has no field {rest[0]!r}")
    try:
        return dataclasses.replace(config, **{first: new})
    except ValueError as error:
        raise ValueError(str(error) if name in str(error) else f"{name}: {error}") from error


def _replaced_part(
    parts: Mapping[str, Any], part: str, rest: list[str], value: Any, name: str, known: Mapping[str, Any]
) -> dict[str, Any]:
    """The objectives with one of them changed, added or, by None, removed."""
    if not rest and value in (None, "None"):
        return {key: each for key, each in parts.items() if key != part}
    if not rest or (part not in parts and rest == [KIND]):
        return {**parts, part: _part(value, OBJECTIVES, name)}
    if part in parts:
        return {**parts, part: _replaced(parts[part], rest, value, name, known)}
    if part not in OBJECTIVES:
        raise ValueError(f"a recipe has no field {name!r}{_nearest(name, known)}")
    added = name.removesuffix("." + ".".join(rest))
    raise ValueError(f"{name!r}: this recipe does without {added}; add it first, or start from one that has it")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _plain(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints, registry = _hints(type(value)), registry_of(value)
        plain = {each.name: _plain(getattr(value, each.name), hints[each.name]) for each in dataclasses.fields(value)}
        if registry is not None:
            module = type(value).__module__
            foreign = {} if module.startswith("dgseg.") else {MODULE: module}
            return {KIND: registry.kind(value), **foreign, **plain}
        several = len([each for each in _choices(hint) if dataclasses.is_dataclass(each)]) > 1
        return {CLASS: type(value).__name__, **plain} if several else plain
    if isinstance(value, list | tuple):
        return [_plain(each, None) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each, None) for key, each in value.items()}
    return value


def _typed(value: Any, hint: Any, name: str) -> Any:
    """What YAML, a command line or a sweep gave, as the field's type has it; a ValueError naming the field if not."""
    choices = _choices(hint)
    if value is None or (value == "None" and type(None) in choices):
        if type(None) in choices:
            return None
        raise ValueError(f"{name} cannot be None; it takes {_named(hint)}")
    for choice in choices:
        registry = registry_of(choice)
        if registry is not None:
            return _part(value, registry, name)
        if get_origin(choice) is Mapping and isinstance(value, Mapping):
            # Older files name every objective that there was, most of them with nothing.
            present = {key: each for key, each in value.items() if each is not None}
            return {key: _part(each, OBJECTIVES, f"{name}.{key}", default=key) for key, each in present.items()}
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


def _part(value: Any, registry: Registry[Any], name: str, default: str | None = None) -> Any:
    """A registered part: its config as it is, its kind alone, or its fields with the kind, else of the default kind."""
    if registry_of(value) is registry:
        return value
    if not isinstance(value, str | Mapping):
        raise ValueError(f"{name} is {value!r}; it takes the kind of an {registry.what}, or its fields")
    fields = {KIND: value} if isinstance(value, str) else dict(value)
    module = fields.pop(MODULE, None)
    # Older files say class, of the optimiser alone.
    kind = str(fields.pop(KIND, None) or fields.pop(CLASS, None) or default or "")
    if kind not in registry and module is not None:
        raise ValueError(
            f"{name}: {kind!r} is an {registry.what} of the module {module!r}, which is not imported here: "
            f"--import {module}, or in code an import before the recipe is read"
        )
    try:
        chosen = registry[kind]
    except ValueError as error:
        raise ValueError(f"{name}: {error}. One of your own is known once its module is imported") from error
    return _dataclass(registry.implied(kind) | fields, [chosen], name)


def _dataclass(value: Mapping[str, Any], classes: list[Any], name: str) -> Any:
    rest = dict(value)
    kind = rest.pop(CLASS, None) if len(classes) > 1 else None
    chosen = classes[0] if len(classes) == 1 else None
    for each in classes:
        if each.__name__ == kind:
            chosen = each
    if chosen is None:
        raise ValueError(f"{name}: {CLASS} is {kind!r}; there are {', '.join(each.__name__ for each in classes)}")
    hints = _hints(chosen)
    for key in rest:
        if key not in hints:
            raise ValueError(f"{name} has no field {key!r}{_nearest(str(key), hints)}")
    values = {key: _typed(each, hints[key], f"{name}.{key}") for key, each in rest.items()}
    try:
        return chosen(**values)
    except (TypeError, ValueError) as error:
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
