"""The pages of the site: their links and navigation (`make docs` checks anchors too), and the messages they explain."""

import ast
import re
from importlib import import_module

import pytest

from scripts import build_docs
from tests.docs.pages import ROOT


def test_links_lead_somewhere_and_every_page_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(build_docs, "GATHERED", tmp_path)
    assert build_docs.gather() == []
    assert "](guides/studies.md)" in (tmp_path / "index.md").read_text()
    assert "](../operators/boundary_bands.md)" in (tmp_path / "guides/operators.md").read_text()


def test_links_of_the_repository_become_those_of_the_site():
    known = {"docs/a/b.md": "a/b.md", "dgseg/room/README.md": "guides/room.md"}
    broken = []

    def turned(text):
        return build_docs.on_site(text, "docs/a/b.md", known, broken)

    assert turned("see [it](../../dgseg/room/README.md#here)") == "see [it](../guides/room.md#here)"
    assert (
        turned("see [the code](../../setup.py), [web](https://example.com)")
        == "see the code, [web](https://example.com)"
    )
    assert turned("```\n[x](y)\n```") == "```\n[x](y)\n```"
    assert not broken
    turned("[gone](nowhere.md)")
    assert broken == ["docs/a/b.md links to nowhere.md, which is not there"]


ROOMS = ("ops", "data", "models", "objectives", "evaluation", "training", "recipes")


@pytest.mark.parametrize("room", ROOMS)
def test_reference_has_every_public_class_and_function(room):
    page = (ROOT / f"docs/reference/{room}.md").read_text()
    listed = re.findall(r"^::: (\S+)", page, re.MULTILINE)
    for path in listed:
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name), f"{page}: there is no {path}"
    public = import_module(f"dgseg.{room}")
    wanted = {name for name in public.__all__ if callable(getattr(public, name))}
    assert wanted == {path.rpartition(".")[2] for path in listed}


def messages():
    """First cells of the guide's tables "By message"."""
    page = (ROOT / "docs/guides/debugging.md").read_text()
    section = page[page.index("## By message") : page.index("## NaN")]
    return [row for row in re.findall(r"^\| (.+?) \|", section, re.MULTILINE) if row.startswith("`")]


def texts():
    """All strings of the package, values in them as …"""
    for path in ROOT.glob("dgseg/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.fixture(scope="module")
def source():
    return "\n".join(texts())


@pytest.mark.parametrize("row", messages())
def test_explained_messages_are_those_of_the_code(row, source):
    for quoted in re.findall(r"`([^`]+)`", row):
        pattern = ".*?".join(re.escape(part.strip()) for part in quoted.split("…"))
        assert re.search(pattern, source), f"no message of the package holds {quoted!r}"
