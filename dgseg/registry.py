"""Parts by name: the config classes of one sort of part, ours and a user's alike.

The file that defines a part registers it. A recipe then holds the part's config, its YAML the name (`kind:`), and
whoever reads the YAML back finds the class here, once the module that registers it has been imported.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Config = TypeVar("Config")
Part = TypeVar("Part")


class Registry(Generic[Config]):
    """Config classes by kind. A base config class names its registry in an attribute of its own: `registry`."""

    def __init__(self, what: str) -> None:
        self.what = what  # in messages: "objective"
        self._classes: dict[str, type[Config]] = {}
        self._kinds: dict[type[Config], str] = {}

    def register(self, kind: str, *aliases: str) -> Callable[[type[Part]], type[Part]]:
        """Decorates a config dataclass. The kind is what is written; the aliases are read, too. A class with a field
        `kind` tells several kinds apart by it: the kinds are then the values of the field."""

        def add(part: type[Part]) -> type[Part]:
            config = typing.cast(type[Config], part)
            if "__dataclass_fields__" not in vars(config):
                raise TypeError(f"{config.__qualname__} must be a dataclass: @dataclass(frozen=True, kw_only=True)")
            if reserved := {"class", "module"} & {each.name for each in dataclasses.fields(config)}:  # type: ignore[arg-type]
                raise TypeError(
                    f"{config.__qualname__} has the field {', '.join(reserved)}, which is YAML's own: rename it"
                )
            for name in (kind, *aliases):
                known = self._classes.get(name, config)
                if _address(known) != _address(config):  # a notebook's cell may run again
                    raise ValueError(f"{self.what} {name!r} is {_address(known)} already: take another name")
                self._classes[name] = config
            self._kinds[config] = kind
            return part

        return add

    def kinds(self) -> list[str]:
        return sorted({*self._kinds.values(), *(name for name in self._classes if self.implied(name))})

    def kind_of(self, name: str) -> str:
        """What a name or alias is written as."""
        return self._kinds[self[name]]

    def kind(self, config: Any) -> str:
        """The name under which this config's class is found again."""
        if type(config) not in self._kinds:
            raise ValueError(
                f"{_address(type(config))} is not registered, and a recipe with it could not be read back: decorate it "
                f'with @{self.what}("its_name")'
            )
        own: str = getattr(config, "kind", self._kinds[type(config)])
        return own

    def implied(self, kind: str) -> dict[str, str]:
        """The field that says which of its kinds a class is, where several are one class."""
        own = typing.get_type_hints(self[kind]).get("kind")
        return {"kind": kind} if kind in typing.get_args(own) else {}

    def __contains__(self, kind: object) -> bool:
        return kind in self._classes

    def __getitem__(self, kind: str) -> type[Config]:
        if kind not in self._classes:
            near = difflib.get_close_matches(str(kind), self._classes, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no {self.what} of kind {kind!r}{hint} There are: {', '.join(self.kinds())}")
        return self._classes[kind]


def registry_of(config: Any) -> Registry[Any] | None:
    """Of a config, its class or its base class; None where its kind is no choice."""
    registry = getattr(config, "registry", None)
    return registry if isinstance(registry, Registry) else None


def check_choices(config: Any) -> None:
    """Fields that are a Literal hold one of its values, whoever made the config."""
    for field, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is typing.Literal and getattr(config, field) not in typing.get_args(hint):
            *others, last = (f'"{choice}"' for choice in typing.get_args(hint))
            raise ValueError(f"{field} must be {', '.join(others)} or {last}; it is {getattr(config, field)!r}")


def _address(config: type[Any]) -> str:
    return f"{config.__module__}.{config.__qualname__}"
