"""What README, docs/ and the rooms' READMEs hold: commands, Python snippets, messages."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# Results are records: their commands are those of the commit that they name.
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("dgseg/**/README.md"),
    ]
    if "studies" not in path.parts and "benchmarks" not in path.parts[-2:]
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`(dgseg [a-z][^`\n]*(?:\n[^`\n]+)?)`(?!`)")


class Found(NamedTuple):
    page: str
    text: str
    whole: bool = True  # False: a mention in running text, which may leave arguments out

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:60]}"


def blocks(*languages: str) -> Iterator[Found]:
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text()):
            if language in languages:
                yield Found(page.relative_to(ROOT).as_posix(), text)


def commands() -> Iterator[Found]:
    """Of console blocks (behind "$ "), and in running text where they begin with dgseg and leave nothing out."""
    for block in blocks("console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield Found(block.page, line[2:])
    for page in PAGES:
        for text in INLINE.findall(BLOCK.sub("", page.read_text())):
            if "…" not in text:
                yield Found(page.relative_to(ROOT).as_posix(), " ".join(text.split()), whole=False)


def words(command: str) -> list[str]:
    return [word for word in shlex.split(command, comments=True) if word != "&"]
