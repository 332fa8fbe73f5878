"""What a recipe is called: a name and options, or a row of a table.

    daformer --model.backbone r101 --with flexseg --as published
    study:ablation/gap-ube

The parameters of a recipe's function are its options; the methods that combine with it, and whether it has a published
form, stand where the function is registered. Every choice has one name in records: daformer-r101-flexseg-published.
"""

import argparse
import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, product
from typing import Any, NoReturn, get_args, get_type_hints

from dgseg.recipes.renamed import new_words
from dgseg.training.recipe import Recipe

Change = Callable[[Recipe], Recipe]
Rows = Callable[[], Mapping[str, Recipe]]

STUDY = "study:"
# Parameters that a recipe's function may have -> their flags.
FLAGS = {"family": "--model.family", "backbone": "--model.backbone", "trained": "--model.trained", "source": "--from"}
OPTIONS = ", ".join(["--with", "--as", *FLAGS.values()])


@dataclass(frozen=True)
class Entry:
    name: str
    make: Callable[..., Recipe]
    methods: Mapping[str, Change]
    published: Change | None

    @property
    def summary(self) -> str:
        return _first_line(self.make)

    @property
    def options(self) -> dict[str, tuple[str, ...]]:
        """Parameter -> its values, the default first."""
        hints = get_type_hints(self.make)
        return {name: get_args(hints[name]) for name in inspect.signature(self.make).parameters}

    @property
    def usage(self) -> str:
        """Its options as the command line has them."""
        return "  ".join(
            [
                *(f"{FLAGS[name]} {'|'.join(values)}" for name, values in self.options.items()),
                *([f"--with {' '.join(self.methods)}"] if self.methods else []),
                *(["--as published"] if self.published else []),
            ]
        )

    def choose(
        self, options: Mapping[str, str] | None = None, methods: Sequence[str] = (), published: bool = False
    ) -> "Choice":
        """A ValueError names what there is, where something is asked for that is not."""
        for name, value in (options or {}).items():
            if value not in self.options.get(name, ()):
                raise self._refusal(f"{FLAGS[name]} {value}")
        for method in methods:
            if method not in self.methods:
                raise self._refusal(f"--with {method}")
        if published and self.published is None:
            raise self._refusal("--as published")
        defaults = {name: values[0] for name, values in self.options.items()}
        # In the order of the entry, whatever the order that they were asked for in.
        return Choice(self, defaults | dict(options or {}), tuple(m for m in self.methods if m in methods), published)

    def choices(self) -> Iterator["Choice"]:
        """All that exist, the plain one first."""
        methods = list(chain.from_iterable(combinations(self.methods, n) for n in range(len(self.methods) + 1)))
        for published, chosen, values in product(
            (False, True) if self.published else (False,), methods, product(*self.options.values())
        ):
            yield self.choose(dict(zip(self.options, values, strict=True)), chosen, published)

    def _refusal(self, words: str) -> ValueError:
        flag = words.split()[0]
        others = [other.name for other in RECIPES.values() if flag in other.usage.split()]
        own = f"its options: {self.usage}" if self.usage else "it has no options"
        where = "" if flag in self.usage.split() else f"; {flag} goes with {', '.join(others)}"
        return ValueError(f"{self.name} does not exist with {words}; {own}{where}")


@dataclass(frozen=True)
class Choice:
    """A recipe's entry with every option decided."""

    entry: Entry
    options: Mapping[str, str]
    methods: tuple[str, ...]
    published: bool

    @property
    def name(self) -> str:
        return "-".join([self.entry.name, *self._changed().values(), *self.methods, *["published"] * self.published])

    @property
    def words(self) -> list[str]:
        """What asks for it on a command line."""
        options = chain.from_iterable((FLAGS[name], value) for name, value in self._changed().items())
        methods = ["--with", *self.methods] if self.methods else []
        return [self.entry.name, *options, *methods, *["--as", "published"] * self.published]

    def recipe(self) -> Recipe:
        recipe = self.entry.make(**self.options)
        for method in self.methods:
            recipe = self.entry.methods[method](recipe)
        if self.published and self.entry.published:
            recipe = self.entry.published(recipe)
        return replace(recipe, name=self.name)

    def _changed(self) -> dict[str, str]:
        return {name: value for name, value in self.options.items() if value != self.entry.options[name][0]}


@dataclass(frozen=True)
class Table:
    name: str
    make: Rows

    @property
    def summary(self) -> str:
        return _first_line(self.make)

    def recipes(self) -> dict[str, Recipe]:
        """Row -> its recipe, in the table's order."""
        return {row: replace(recipe, name=f"{self.name}-{row}") for row, recipe in self.make().items()}


RECIPES: dict[str, Entry] = {}
TABLES: dict[str, Table] = {}


def recipe(
    name: str, *, methods: Mapping[str, Change] | None = None, published: Change | None = None
) -> Callable[[Callable[..., Recipe]], Callable[..., Recipe]]:
    """Registers a function as a recipe; the first line of its docstring says what it is."""

    def register(make: Callable[..., Recipe]) -> Callable[..., Recipe]:
        RECIPES[name] = Entry(name, make, methods or {}, published)
        return make

    return register


def table(name: str) -> Callable[[Rows], Rows]:
    """Registers a function that returns the rows of a table."""

    def register(make: Rows) -> Rows:
        TABLES[name] = Table(name, make)
        return make

    return register


def named(
    name: str,
    *,
    methods: Sequence[str] = (),
    published: bool = False,
    family: str | None = None,
    backbone: str | None = None,
    trained: str | None = None,
    source: str | None = None,
) -> Recipe:
    """named("hrda", backbone="r101", methods=["flexseg"], published=True), or a row: named("study:ablation/gap")."""
    given = {"family": family, "backbone": backbone, "trained": trained, "source": source}
    words = [name, *chain.from_iterable((FLAGS[key], value) for key, value in given.items() if value is not None)]
    words += (["--with", *methods] if methods else []) + (["--as", "published"] if published else [])
    name = name.replace("_", "-")
    if new := new_words(name):
        warnings.warn(f"{name} is now {new}", FutureWarning, stacklevel=2)
    return from_words(words).recipe


@dataclass(frozen=True)
class Request:
    recipe: Recipe
    words: Sequence[str]  # what asks for it
    rest: list[str]  # the other words


def from_words(words: Sequence[str]) -> Request:
    """A recipe as a command line asks for it: a name first, its options anywhere after."""
    name = words[0].replace("_", "-")
    words = [*(new_words(name) or name).split(), *words[1:]]
    asked, rest = options_of(words[1:])
    name = words[0]
    if name.startswith(STUDY):
        if len(rest) < len(words) - 1:
            raise ValueError(f"{name} has no options: {OPTIONS} go with a recipe's name")
        return Request(_row(name), [name], rest)
    if name not in RECIPES:
        if also := words_by_name().get(name):
            raise ValueError(f"{name} is a name in records; here it is {' '.join(also)}")
        raise ValueError(f"there is no recipe {name!r}{near(name, RECIPES)} --help lists them")
    choice = RECIPES[name].choose(**asked)
    return Request(choice.recipe(), choice.words, rest)


def _row(address: str) -> Recipe:
    name, _, wanted = address.removeprefix(STUDY).partition("/")
    if name not in TABLES:
        raise ValueError(f"there is no table {name!r}{near(name, TABLES)} There are: {', '.join(TABLES)}")
    rows = TABLES[name].recipes()
    if not wanted:
        raise ValueError(f"{STUDY}{name} is a table; its rows: {', '.join(rows)}")
    if wanted not in rows:
        raise ValueError(f"{STUDY}{name} has no row {wanted!r}{near(wanted, rows)} There are: {', '.join(rows)}")
    return rows[wanted]


def words_by_name() -> dict[str, list[str]]:
    """The name of every recipe in a run's records -> the words that ask for it."""
    words = {choice.name: choice.words for entry in RECIPES.values() for choice in entry.choices()}
    for table in TABLES.values():
        words |= {recipe.name: [f"{STUDY}{table.name}/{row}"] for row, recipe in table.recipes().items()}
    return words


def near(name: str, known: Iterable[str], *, cutoff: float = 0.4) -> str:
    """The end of a sentence."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(matches)}?" if matches else "."


class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


def options_of(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What `Entry.choose` takes, and the other words of a command line."""
    parser = _Options(add_help=False, allow_abbrev=False)
    parser.add_argument("--with", nargs="+", action="extend", dest="methods", default=[])
    parser.add_argument("--as", choices=["published"], dest="published")
    for name, flag in FLAGS.items():
        parser.add_argument(flag, dest=name)
    found, rest = parser.parse_known_args(words)
    options = {name: value for name in FLAGS if (value := getattr(found, name)) is not None}
    return {"options": options, "methods": found.methods, "published": found.published is not None}, rest


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")
