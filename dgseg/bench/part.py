"""One part of `dgseg bench data` or `ranks`: a table of named figures, some of which must reach a target."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    what: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False  # else the target is the most that the value may be

    @property
    def ok(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Part:
    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    refused: str | None = None  # why no figures are reported
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        lines = ["", self.name, f"  {self.title}"]
        if self.refused:
            lines.append(f"  REFUSED: no figures are reported, because {self.refused}")
        for row in self.rows:
            judged = ""
            if row.target is not None:
                judged = f"  target: {'at least' if row.at_least else 'at most'} {row.target:g}"
                judged = f"{judged:26}{'OK' if row.ok else 'MISSED'}"
            lines.append(f"    {row.what:60}{_figure(row.value):>12} {row.unit:10}{judged}".rstrip())
        for note in self.notes:
            lines += textwrap.wrap(f"note: {note}", 116, initial_indent="    ", subsequent_indent="      ")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        rows = [dataclasses.asdict(row) | {"ok": row.ok} for row in self.rows]
        return dataclasses.asdict(self) | {"rows": rows}


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
