"""Every command that the documentation shows is one that the command line takes."""

import argparse
import re
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from types import ModuleType

import pytest

from dgseg import cli
from dgseg.cli import arguments
from dgseg.recipes import RECIPES, TABLES, flatten
from dgseg.runs.launch import command
from dgseg.runs.sweep import main as sweep
from tests.docs.pages import ROOT, commands, words

COMMANDS = sorted(set(commands()), key=str)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def parse(line: list[str], whole: bool = True) -> None:
    program, *rest = line
    if program == "make":
        assert set(rest) <= TARGETS
    elif program == "source":
        assert rest == [".venv/bin/activate"]
    elif program == "python":
        assert (ROOT / rest[0]).is_file()
        if not rest[0].startswith("examples/"):  # which test_examples.py runs
            parse(["dgseg", "sweep" if "sweep" in rest[0] else "train", *rest[1:]])
    elif program == "torchrun":
        parse(["dgseg", *rest[rest.index("dgseg") + 1 :]])
    elif program == "ray":
        if "--" in rest:
            parse(rest[rest.index("--") + 1 :])
    else:
        assert program == "dgseg"
        parse_verb(rest, whole)


def parse_verb(rest: list[str], whole: bool = True) -> None:
    verbs = cli.VERBS
    while True:
        name, *rest = rest
        assert name in verbs, f"dgseg has no verb {name}"
        module = import_module(verbs[name][0])
        if not hasattr(module, "VERBS"):
            break
        verbs = module.VERBS
        if not rest:
            return  # dgseg bench: a family of verbs, named as such
    if not rest or "--help" in rest:
        return  # the verb, named as such
    if name == "train":
        if rest[0] == "--recipe":  # of a run that is not here
            rest = ["flexseg-streets", *rest[2:]]
        if rest == ["study:"]:
            return  # lists the rows of tables, and ends
        command.parse(rest, prog="dgseg train")
    elif name == "sweep":
        sweep.read(rest)
    elif whole:
        parse_arguments(module, rest)
    else:  # a mention may leave arguments out: its flags must be there
        with pytest.raises(SystemExit), redirect_stdout(StringIO()) as printed:
            parse_arguments(module, ["--help"])
        flags = {word.partition("=")[0] for word in rest if word.startswith("-")}
        missing = {flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", printed.getvalue())}
        assert not missing, f"dgseg {name} has no {', '.join(missing)}"


def parse_arguments(module: ModuleType, rest: list[str]) -> None:
    if hasattr(module, "Arguments"):
        arguments.parse(module.Arguments, rest, prog="dgseg", description="", examples="")
    else:
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        parser.parse_args(rest)


@pytest.mark.parametrize("found", COMMANDS, ids=str)
def test_command_is_taken(found, capsys):
    try:
        parse(words(found.text), found.whole)
    except SystemExit as stop:
        if stop.code:  # 0: it listed what it was asked to
            pytest.fail(f"{found.text}: exit status {stop.code}\n{capsys.readouterr().err}")


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 60
    with pytest.raises(SystemExit):
        parse_verb(["evaluate", "--weights", "w", "--dta", "streets=fog"])


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


FIELD = re.compile(r"`((?:data|model|objective|optimizer|schedule|sampler|train)\.[a-z_.]+)`")


def test_settings_on_the_cards_of_methods_are_fields_of_a_recipe():
    recipes = [choice.recipe() for entry in RECIPES.values() for choice in entry.choices()]
    recipes += [recipe for table in TABLES.values() for recipe in table.recipes().values()]
    fields = set().union(*(flatten(recipe) for recipe in recipes))
    named = {name for page in (ROOT / "docs/methods").glob("*.md") for name in FIELD.findall(page.read_text())}
    assert len(named) > 20
    assert {
        name for name in named if not any(field == name or field.startswith(f"{name}.") for field in fields)
    } == set()
