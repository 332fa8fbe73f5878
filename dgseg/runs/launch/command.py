"""The typed command line of everything that trains: every field of a recipe is a flag, by its dotted name.

    daformer --with flexseg --workers 8 --objective.ube.alpha 5 --model.options.drop_path 0.2
    study:ablation/gap-ube --seed 1
    --recipe runs/daformer-flexseg/recipe.yaml --name again

The first word names the recipe; with its options (--with, --as, --model.backbone …) it decides the flags' defaults. A
part that a recipe does without, as a plain baseline does without prototypes, has no flags there; one that is added by
its kind has:

    daformer --objective.gap prototype_contrast --objective.gap.dim 64 --objective.fd None
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from textwrap import fill, indent
from typing import Annotated, Any, get_type_hints

import tyro

from dgseg.objectives import OBJECTIVES
from dgseg.recipes import RECIPES, TABLES, Entry, from_words, from_yaml, override
from dgseg.recipes.catalogue import STUDY, options_of
from dgseg.recipes.renamed import new_words
from dgseg.runs.launch.config import LaunchConfig
from dgseg.training.optimizers import OPTIMIZERS
from dgseg.training.recipe import Recipe
from dgseg.training.run import RunConfig

DEFAULT = "flexseg-streets"
OPTIONS = "--model.options."  # whatever the architecture takes: no type names these fields
PART = re.compile(r"--(optimizer|objective[.][\w-]+)([.]kind)?")  # a whole part: its kind, or None


@dataclass(frozen=True)
class Command:
    recipe: Recipe
    run: RunConfig = field(default_factory=RunConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    def sizes(self) -> list[int]:
        """The numbers of workers, of those that may come to train, among which every batch divides evenly."""
        data, parts = self.recipe.data, self.recipe.train.accumulate
        batches = [data.batch_size, data.target_batch]
        asked = range(self.launch.min_workers or self.launch.workers, self.launch.workers + 1)
        return [workers for workers in asked if not any(batch % (workers * parts) for batch in batches)]


def parse(argv: Sequence[str], *, prog: str) -> Command:
    """SystemExit after --help and after a wrong flag, which is explained; ValueError where values do not fit."""
    # Messages name a run's settings by their dotted names, too.
    words = [re.sub("^--run[.]", "--", word) for word in _imported(argv)]
    label, recipe, rest = _recipe(words)
    listing = len(rest) == len(argv)  # no recipe is named
    recipe, rest = _with_parts(recipe, rest)
    _check_parts(rest, label, recipe)
    recipe, rest = _with_options(recipe, rest)
    options = recipe.model.options
    plain = replace(recipe, model=replace(recipe.model, options={}))
    flags = tyro.cli(
        _flags(plain),
        prog=f"{prog} {label}",
        description=_description(options, listing=listing),
        args=rest,
        config=(tyro.conf.AvoidSubcommands,),
    )
    parts = {part: getattr(flags, part) for part in _parts(recipe)}
    parts["model"] = replace(parts["model"], options=options)
    parts["objective"] = {name: getattr(flags.objective, name) for name in recipe.objective}
    return Command(replace(recipe, **parts), flags.run, flags.launch)


def _imported(argv: Sequence[str]) -> list[str]:
    """The line without --import MODULE, whose parts are known from here on."""
    rest: list[str] = []
    left: Iterator[str] = iter(argv)
    for word in left:
        flag, equals, module = word.partition("=")
        if flag != "--import":
            rest.append(word)
            continue
        module = module if equals else next(left, "")
        if not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"--import takes the name of a module, as my_losses of my_losses.py; not {module!r}")
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(f"--import {module}: {error}") from error
    return rest


def _recipe(argv: Sequence[str]) -> tuple[str, Recipe, list[str]]:
    """How the command line names its recipe, the recipe, and what is left of the line."""
    first, rest = (argv[0], list(argv[1:])) if argv else ("", [])
    flag, _, path = first.partition("=")
    if flag == "--recipe":
        if not path:
            if not rest:
                raise ValueError("--recipe takes the YAML file of a recipe, as runs/NAME/recipe.yaml")
            path = rest.pop(0)
        label = f"--recipe {path}"
        if len(options_of(rest)[1]) < len(rest):
            raise ValueError(f"{label} is a whole recipe: options such as --with go with a recipe's name")
        recipe = _load(Path(path))
    else:
        if not first or first.startswith("-"):
            first, rest = DEFAULT, list(argv)
        if first == STUDY:
            print(_tables())
            raise SystemExit(0)
        first = first.replace("_", "-")
        if new := new_words(first):
            print(f"{first} is now {new} (to resume an older run add --name {first})", file=sys.stderr)
        request = from_words([first, *rest])
        label, recipe, rest = " ".join(request.words), request.recipe, request.rest
    for before, word in pairwise(["", *rest]):
        if word.partition("=")[0] == "--recipe" or (word in RECIPES and not before.startswith("--")):
            raise ValueError(f"{word} stands first, before the flags")
    return label, recipe, rest


def _load(path: Path) -> Recipe:
    if not path.is_file():
        raise ValueError(f"--recipe: {path} is no file; every run saves its recipe as recipe.yaml in its folder")
    try:
        return from_yaml(path.read_text())
    except ValueError as error:
        raise ValueError(f"--recipe {path}: {error}") from error


def _flags(recipe: Recipe) -> type[Any]:
    """Where and how first, then the recipe's parts; a run is named by --name, and a recipe keeps its own."""
    hints = get_type_hints(Recipe)
    each = [(name, type(config), field(default=config)) for name, config in recipe.objective.items()]
    objective = make_dataclass("Objective", each, frozen=True)
    typed: dict[str, tuple[Any, Any]] = {part: (hints[part], getattr(recipe, part)) for part in _parts(recipe)}
    typed |= {"objective": (objective, objective()), "optimizer": (type(recipe.optimizer), recipe.optimizer)}
    return make_dataclass(
        "Flags",
        [
            ("launch", Annotated[LaunchConfig, tyro.conf.arg(name="")], field(default=LaunchConfig())),
            ("run", Annotated[RunConfig, tyro.conf.arg(name="")], field(default=RunConfig())),
            *((part, hint, field(default=default)) for part, (hint, default) in typed.items()),
        ],
        frozen=True,
    )


def _parts(recipe: Recipe) -> list[str]:
    return [part.name for part in fields(recipe) if part.name != "name"]


def _description(options: Mapping[str, Any], *, listing: bool) -> str:
    listed = [
        f"A recipe is a name and options; without a name {DEFAULT} is meant. Every field of it is a flag.",
        "",
        "On the embedded streets world, without a download:",
        *(line for entry in RECIPES.values() if "streets" in entry.name for line in _entry(entry)),
        "",
        "On real data, looked for in ./data (--data.sources and --data.test name other places):",
        *(line for entry in RECIPES.values() if "streets" not in entry.name for line in _entry(entry)),
        "",
        f"A row of a table is named {STUDY}TABLE/ROW, as {STUDY}ablation/gap-ube; `dgseg train {STUDY}` lists them. In",
        "place of a name, --recipe FILE.yaml takes a recipe that a run has saved.",
    ]
    if not listing:
        listed = ["--help without a recipe lists the recipes and their options."]
    return "\n".join(
        [
            *listed,
            "",
            "What the model's architecture takes beside the flags below:",
            f"  {OPTIONS}NAME VALUE  (here: {', '.join(f'{k}={v!r}' for k, v in options.items()) or 'none'})",
            "",
            "--objective.NAME KIND adds a loss, whose fields are then flags; --objective.NAME None removes one. Kinds:",
            indent(fill(", ".join(OBJECTIVES.kinds()), 116, break_on_hyphens=False), "  "),
            f"--optimizer KIND takes another one, with its own defaults: {', '.join(OPTIMIZERS.kinds())}.",
            "--import MODULE makes the kinds of a module of your own known, in the working directory or installed.",
        ]
    )


def _entry(entry: Entry) -> list[str]:
    width = max(map(len, RECIPES))
    return [f"  {entry.name:{width}}  {entry.summary}", *([f"  {'':{width}}  {entry.usage}"] if entry.usage else [])]


def _tables() -> str:
    """Of the studies, with their rows."""
    lines = [f"Rows of tables: dgseg train {STUDY}TABLE/ROW [flags]"]
    for table in TABLES.values():
        rows = fill("  ".join(table.recipes()), 116, break_on_hyphens=False)
        lines += ["", f"{STUDY}{table.name}: {table.summary}", indent(rows, "  ")]
    return "\n".join(lines)


def _check_parts(words: Sequence[str], label: str, recipe: Recipe) -> None:
    for word in words:
        if word.startswith("--") and (part := _absent(recipe, word[2:].partition("=")[0].replace("-", "_"))):
            having = [
                " ".join(choice.words)
                for entry in RECIPES.values()
                for choice in entry.choices()
                if not _absent(choice.recipe(), f"{part}.any")
            ]
            others = f" and {len(having) - 5} more" if len(having) > 5 else ""
            where = f"Recipes with it: {', '.join(having[:5])}{others}" if having else "No recipe has it"
            name = part.rpartition(".")[2]
            kind = OBJECTIVES.kind_of(name) if name in OBJECTIVES else "KIND"
            add = f"; --{part} {kind} adds it" if part.startswith("objective.") else ""
            raise ValueError(f"{label} has no {part}, so {word} would change nothing{add}. {where}")


def _absent(recipe: Recipe, dotted: str) -> str | None:
    """The part on the way to this field that the recipe does without."""
    value: Any = recipe
    names = dotted.split(".")
    for depth, name in enumerate(names[:-1], 1):
        value = value.get(name) if value is recipe.objective else getattr(value, name, value)
        if value is None:
            return ".".join(names[:depth])
    return None


def _with_parts(recipe: Recipe, words: Sequence[str]) -> tuple[Recipe, list[str]]:
    """The recipe with the parts that are added, removed or of another kind, and the words without them."""
    rest: list[str] = []
    left: Iterator[str] = iter(words)
    for word in left:
        flag, equals, text = word.partition("=")
        if not PART.fullmatch(flag):
            rest.append(word)
            continue
        text = text if equals else next(left, "")
        if not text or text.startswith("--"):
            registry = OPTIMIZERS if flag.startswith("--optimizer") else OBJECTIVES
            raise ValueError(f"{word} takes the kind of an {registry.what}: {', '.join(registry.kinds())}")
        recipe = override(recipe, {flag.removeprefix("--").replace("-", "_"): text})
    return recipe, rest


def _with_options(recipe: Recipe, words: Sequence[str]) -> tuple[Recipe, list[str]]:
    """The recipe with the architecture's options, and the words without them."""
    rest: list[str] = []
    left: Iterator[str] = iter(words)
    for word in left:
        if not word.startswith(OPTIONS):
            rest.append(word)
            continue
        flag, equals, text = word.partition("=")
        name = flag.removeprefix(OPTIONS).replace("-", "_")
        text = text if equals else next(left, "")
        if not name.isidentifier() or not text or text.startswith("--"):
            raise ValueError(f"{word}: an option of the model is given as {OPTIONS}NAME VALUE")
        known = recipe.model.options.get(name)
        recipe = override(recipe, {f"model.options.{name}": text})
        if known is not None and not _fits(recipe.model.options[name], known):
            raise ValueError(f"{OPTIONS}{name} takes {type(known).__name__}, as {known!r}; not {text!r}")
    return recipe, rest


def _fits(value: Any, known: Any) -> bool:
    return isinstance(value, type(known)) or (isinstance(known, float) and type(value) is int)
