"""The files through which training and the process that ships its journal know of each other. Needs no torch."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

Entry = Mapping[str, Any]

JOURNAL = "metrics.jsonl"  # dgseg.training.journal.FILE
SETTINGS, STATE, SYSTEM, REFUSED = "settings.json", "state.json", "system.jsonl", "refused.jsonl"

_READ_BYTES = 1 << 20


class Tail:
    """The whole lines of a file that others append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0  # behind the last line that was confirmed

    def read(self) -> list[tuple[int, Entry]]:
        """About a megabyte of lines behind `offset`, each with the offset of its end."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                lines = file.readlines(_READ_BYTES)
        except FileNotFoundError:
            return []
        found: list[tuple[int, Entry]] = []
        end = self.offset
        for line in lines:
            end += len(line)
            if line.endswith(b"\n"):  # else it is still being written
                with suppress(ValueError, RecursionError):  # a disk that has lost something
                    entry = json.loads(line)
                    if isinstance(entry, dict):
                        found.append((end, entry))
        return found


def open_to_append(path: Path) -> IO[bytes]:
    """A link in a file's place is not followed: what it names is not the run's."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644), "ab", 0)


def append(path: Path, entry: Entry) -> None:
    with open_to_append(path) as file:
        file.write(json.dumps(entry, ensure_ascii=False, default=str).encode() + b"\n")


def write_json(path: Path, content: Entry) -> None:
    """Aside and renamed: a reader sees the old content or the new one."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """{} where there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
