"""Lists of sample ids in text files: what `dgseg data select` chose, what `dgseg data check --quarantine` found.

    # dgseg {"preset": "gta5-2500", "seed": 0, "images": {"all": 2500}, …}
    gta5/00001
    gta5/00007	a note after a tab

A list without the header is one that somebody wrote by hand: any id on it must exist."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgseg.data.dataset import DataError

_MARK = "# dgseg "


@dataclass(frozen=True)
class IdList:
    ids: frozenset[str]
    header: Mapping[str, Any]


def write_list(path: Path | str, ids: Iterable[str | tuple[str, str]], header: Mapping[str, Any]) -> None:
    lines = [entry if isinstance(entry, str) else "\t".join(entry) for entry in ids]
    lines = [" ".join(line.splitlines()) for line in lines]
    text = "\n".join([_MARK + json.dumps(header), *lines]) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def read_list(path: Path | str) -> IdList:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise DataError(
            f"{path}: {reason}; `dgseg data select` and `dgseg data check --quarantine` write such lists"
        ) from error
    header: Mapping[str, Any] = {}
    if lines and lines[0].startswith(_MARK):
        try:
            header = json.loads(lines[0].removeprefix(_MARK))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: its first line is damaged ({error}); write the list again") from error
    ids = [line.split("\t")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
    return IdList(frozenset(ids), header)
