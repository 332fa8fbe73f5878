"""What makes a folder a checkpoint: manifest.json says what it holds, and proves that it holds it.

Checksums are blake2b: they guard against damage, not against people (who can write the folder can write the manifest),
so any would do that a torn page cannot fool. CRC-32 lets one damaged file in four thousand million pass; blake2b lets
none, needs no special instructions to hash 1 GB in a second, and `b2sum --length 128` says the same.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import dgseg
from dgseg.training.storage import Storage

FORMAT = 1
MANIFEST = "manifest.json"
_CHUNK = 8 << 20


class Damaged(Exception):
    """Its text is the reason why a checkpoint is skipped."""


@dataclass(frozen=True)
class Entry:
    bytes: int
    blake2b: str


@dataclass(frozen=True)
class Manifest:
    format: int
    step: int
    score: float | None
    higher_is_better: bool
    files: dict[str, Entry]  # by their paths in the folder
    time: str
    dgseg: str
    torch: str

    @classmethod
    def of(cls, folder: Path, step: int, score: float | None, higher_is_better: bool) -> "Manifest":
        """Of the files as they are read back."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = {
            path.relative_to(folder).as_posix(): Entry(path.stat().st_size, digest(_chunks(path))) for path in paths
        }
        score = score if score is not None and math.isfinite(score) else None  # JSON has no NaN, and none is the best
        time = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(FORMAT, step, score, higher_is_better, files, time, dgseg.__version__, torch.__version__)

    def encode(self) -> bytes:
        body = asdict(self)
        return json.dumps(body | {"checksum": _checksum(body)}, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        try:
            body = json.loads(data)
            checksum = body.pop("checksum")
            version = body["format"]
            sound = checksum == _checksum(body)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise Damaged(f"{MANIFEST} is unreadable") from error
        if not sound:
            raise Damaged(f"{MANIFEST} does not match its own checksum")
        if version > FORMAT:
            raise NewerFormat(
                f"written by dgseg {body.get('dgseg')} in format {version}, this dgseg reads up to {FORMAT}: update it"
            )
        body["files"] = {name: Entry(**entry) for name, entry in body["files"].items()}
        return cls(**{field.name: body[field.name] for field in fields(cls)})

    @classmethod
    def read(cls, folder: Storage) -> "Manifest":
        """Files are there and have the right sizes; what they hold is not looked at."""
        try:
            found = cls.decode(folder.read(MANIFEST))
        except FileNotFoundError as error:
            raise Damaged(f"{MANIFEST} is missing") from error
        except OSError as error:
            raise Damaged(f"{MANIFEST} is unreadable ({error.strerror or error})") from error
        for name, entry in found.files.items():
            try:
                size = folder.size(name)
            except OSError as error:
                raise Damaged(f"{name} is missing") from error
            if size != entry.bytes:
                raise Damaged(f"{name} has {size} bytes instead of {entry.bytes}")
        return found

    def content(self, folder: Storage, name: str) -> bytes:
        """A file's bytes, checked: what is used is what was compared."""
        try:
            data = folder.read(name)
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror or error})") from error
        self._compare(name, digest([data]))
        return data

    def compare(self, folder: Storage, name: str) -> None:
        """For files that others read, too large to hold."""
        assert folder.local is not None
        try:
            found = digest(_chunks(folder.local / name))
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror or error})") from error
        self._compare(name, found)

    def _compare(self, name: str, found: str) -> None:
        if found != self.files[name].blake2b:
            raise Damaged(f"{name} does not match its checksum")


class NewerFormat(Damaged):
    """Of use to a newer dgseg: skipped, never deleted."""


def digest(chunks: Iterable[bytes]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()


def _chunks(path: Path) -> Iterable[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _checksum(body: dict[str, Any]) -> str:
    return digest([json.dumps(body, sort_keys=True).encode()])
