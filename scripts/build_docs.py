"""Builds the documentation into site/ (`make docs`): gathers the pages in build/docs and has Zensical make the site of
them. A link, an anchor or a page of the navigation that is not there is an error.

Pages are the Markdown of docs/ and the READMEs of rooms, which lie beside their code: each is the page on its room, and
the repository's README is the front page. Links are written for the repository, and turned into the site's here."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
GATHERED = ROOT / "build/docs"
ROOMS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "ray_jobs/README.md": "guides/ray.md",
    "tuning/README.md": "guides/sweeps.md",
    "dgseg/data/pack/README.md": "guides/packs.md",
    "dgseg/data/streets/README.md": "guides/streets.md",
    "dgseg/data/streets/domains.jpg": "guides/domains.jpg",
    "dgseg/generation/README.md": "guides/generation.md",
    "dgseg/objectives/README.md": "guides/objectives.md",
}
SUFFIXES = {".md", ".png", ".jpg", ".css"}
FENCE = re.compile(r"^\s*(```|~~~)")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")


def pages() -> dict[str, str]:
    """File of the repository -> page of the site."""
    operators = {
        f"dgseg/ops/{path.parent.name}/README.md": path.parent.name for path in ROOT.glob("dgseg/ops/*/README.md")
    }
    written = (path for path in (ROOT / "docs").rglob("*") if path.suffix in SUFFIXES)
    return (
        {
            f"docs/{path.relative_to(ROOT / 'docs').as_posix()}": path.relative_to(ROOT / "docs").as_posix()
            for path in written
        }
        | ROOMS
        | {source: f"operators/{name}.md" for source, name in operators.items()}
    )


def on_site(markdown: str, source: str, known: dict[str, str], broken: list[str]) -> str:
    """A page's Markdown with the site's links. A link to a source file, which the site has no copy of, becomes text."""

    def turned(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return link[0]
        file = os.path.normpath(os.path.join(os.path.dirname(source), path))
        if file in known:
            relative = os.path.relpath(known[file], os.path.dirname(known[source]) or ".")
            return f"{picture}[{text}]({relative}{'#' + anchor if anchor else ''})"
        if not (ROOT / file).exists():
            broken.append(f"{source} links to {target}, which is not there")
        return text

    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= bool(FENCE.match(line))
        lines.append(line if fenced else LINK.sub(turned, line))
    return "\n".join(lines)


def navigation(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from navigation(value) if isinstance(value, list) else [value]


def gather() -> list[str]:
    """Writes build/docs; what is wrong with the links and the navigation."""
    shutil.rmtree(GATHERED, ignore_errors=True)
    known, broken = pages(), list[str]()
    for source, page in known.items():
        target = GATHERED / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".md":
            target.write_text(on_site((ROOT / source).read_text(), source, known, broken))
        else:
            shutil.copyfile(ROOT / source, target)
    listed = set(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    written = {page for page in known.values() if page.endswith(".md")}
    broken += [f"mkdocs.yml lists {page}, which is not there" for page in sorted(listed - written)]
    broken += [f"{page} is not in mkdocs.yml's nav" for page in sorted(written - listed)]
    return broken


if __name__ == "__main__":
    broken = gather()
    for message in broken:
        print(message, file=sys.stderr)
    command = [sys.executable, "-m", "zensical", *(sys.argv[1:] or ["build", "--clean", "--strict"])]
    built = subprocess.run(command, cwd=ROOT).returncode
    sys.exit(1 if broken else built)
