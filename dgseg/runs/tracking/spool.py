"""What MLflow has not confirmed yet: JSON lines in numbered segments, written by one process and read by another.

Training appends and never waits; the sender reads in order and deletes a segment once all of it has arrived and a later
one exists. A line is one write and only its own writer appends to a segment, so nothing is locked, and a process killed
at any moment leaves at most one torn last line, which is skipped.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]

# In the spool's folder: who the run is, what ails its sender, what MLflow would not take, who sends, that training has
# ended, and what is to be uploaded.
IDENTITY, STATE, REFUSED, LOCK = "run.json", "state.json", "refused.jsonl", "lock"
CLOSING, FILES = "closing", "files"

_SEGMENT_BYTES = 1 << 20
_READ_BYTES = 1 << 20


class Writer:
    def __init__(self, folder: Path, stream: str) -> None:
        """Begins a segment of its own: what an earlier process wrote stays as it is."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._stream = stream
        self._number = max((_number(path) for path in segments(folder, stream)), default=0)
        self._descriptor = -1
        self._written = 0
        self._next_segment()

    def append(self, entry: Entry) -> None:
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if self._written > _SEGMENT_BYTES:
            self._next_segment()
        written = os.write(self._descriptor, line)
        self._written += written
        if written < len(line):  # the disk is full: what comes later must not continue a torn line
            self._written = _SEGMENT_BYTES + 1
            raise OSError(f"{self._folder} takes no more: the disk is full")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _next_segment(self) -> None:
        self.close()
        self._number += 1
        path = self._folder / f"{self._stream}-{self._number:06d}.jsonl"
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)
        self._written = 0


class Reader:
    """Entries in the order in which they were written, over all segments that are there."""

    def __init__(self, folder: Path, stream: str) -> None:
        self._folder = folder
        self._stream = stream
        self._segment: Path | None = None
        self._offset = 0
        self._read: list[Path] = []  # to their end, and no longer written to
        self.torn = 0

    def read(self) -> list[Entry]:
        """About a megabyte of what is new, or nothing. Call `confirm` once it has arrived."""
        while True:
            there = segments(self._folder, self._stream)  # listed first: an older segment grows no more after that
            left = [path for path in there if self._segment is None or _number(path) >= _number(self._segment)]
            if not left:
                return []
            if left[0] != self._segment:
                self._segment, self._offset = left[0], 0
            entries = list(self._lines(left[0], closed=len(left) > 1))
            if entries or len(left) == 1:
                return entries
            self._read.append(left[0])
            self._segment, self._offset = left[1], 0

    def confirm(self) -> None:
        """All that was read has arrived: segments that were read to their end are deleted."""
        for path in self._read:
            path.unlink(missing_ok=True)
        self._read = []

    def finish(self) -> None:
        """The writer has ended too: its last segment goes as well, unless there is something new in it."""
        self.confirm()
        if self._segment is not None and self._segment.exists() and 0 < self._segment.stat().st_size == self._offset:
            self._segment.unlink()

    def _lines(self, path: Path, *, closed: bool) -> Iterator[Entry]:
        with path.open("rb") as file:
            file.seek(self._offset)
            for line in file.readlines(_READ_BYTES):
                if not line.endswith(b"\n"):
                    if closed:
                        self.torn += 1
                        self._offset += len(line)
                    return
                self._offset += len(line)
                try:
                    yield json.loads(line)
                except ValueError:
                    self.torn += 1


def segments(folder: Path, stream: str) -> list[Path]:
    return sorted(folder.glob(f"{stream}-*.jsonl"), key=_number)


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
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
