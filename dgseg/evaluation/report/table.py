"""Tables for people, and the one way in which numbers become CSV and JSON."""

import csv
import io
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

WIDTH = 118  # characters of a line where the terminal does not say
ABSENT = "–"

Cell = str | int | float | None


def finite(value: float | None) -> float | None:
    """For JSON: what has no score (NaN) is None."""
    return None if value is None or not math.isfinite(value) else float(value)


def percent(value: float, digits: int = 2) -> str:
    return ABSENT if math.isnan(value) else f"{100 * value:.{digits}f}"


def points(difference: float, digits: int = 2) -> str:
    return ABSENT if math.isnan(difference) else f"{round(100 * difference, digits) + 0.0:+.{digits}f}"  # no -0.00


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Numbers in all their digits; empty where there is none, and at the end of short rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        cells = [repr(finite(cell)) if isinstance(cell, float) and finite(cell) is not None else cell for cell in row]
        cells = ["" if isinstance(cell, float) else cell for cell in cells]
        writer.writerow([*cells, *[""] * (len(head) - len(cells))])
    return text.getvalue()


@dataclass(frozen=True)
class Table:
    """The first column is text, the others are numbers; a rule stands above each row that `rules` names."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    rules: frozenset[int] = frozenset()

    def fold(self, width: int = WIDTH, fixed: int = 1) -> list["Table"]:
        """Tables whose lines are no wider than this; each begins with the first `fixed` columns."""
        widths = self._widths()
        room = width - sum(widths[:fixed]) - 2 * (fixed - 1)
        parts: list[list[int]] = [[]]
        left = room
        for column in range(fixed, len(self.head)):
            if left < 2 + widths[column] and parts[-1]:
                parts.append([])
                left = room
            parts[-1].append(column)
            left -= 2 + widths[column]
        return [self._columns([*range(fixed), *part]) for part in parts]

    def text(self) -> str:
        widths = self._widths()
        rule = "-" * (sum(widths) + 2 * len(widths) - 2)

        def line(row: Sequence[str]) -> str:
            numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            return "  ".join([row[0].ljust(widths[0]), *numbers]).rstrip()

        lines = [self.title, line(self.head), rule]
        for number, row in enumerate(self.rows):
            lines += [rule] if number in self.rules else []
            lines.append(line(row))
        return "\n".join(lines)

    def show(self) -> None:
        """On standard output: drawn on a terminal, plain elsewhere."""
        if not sys.stdout.isatty():
            print(self.text())
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(title=Text(self.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for number, name in enumerate(self.head):
            drawn.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
        for number, row in enumerate(self.rows):
            drawn.add_row(*map(Text, row), end_section=number + 1 in self.rules)
        Console().print(drawn)

    def markdown(self) -> str:
        rows = [self.head, ("---", *["---:"] * (len(self.head) - 1)), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)

    def latex(self) -> str:
        r"""For \usepackage{booktabs}."""
        lines = [
            f"% {self.title}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}",
            r"\toprule",
            _latex_row(self.head),
            r"\midrule",
        ]
        for number, row in enumerate(self.rows):
            lines += [r"\midrule"] if number in self.rules else []
            lines.append(_latex_row(row))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]

    def _columns(self, columns: Sequence[int]) -> "Table":
        head, *rows = (tuple(row[column] for column in columns) for row in (self.head, *self.rows))
        return replace(self, head=head, rows=tuple(rows))


def _latex_row(cells: Sequence[str]) -> str:
    text = " & ".join(map(_latex_text, cells)) + r" \\"
    # What begins with these would be an option of the rule or the line break above it.
    return "{}" + text if text.startswith(("[", "*")) else text


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$", "–": "--",
})  # fmt: skip


def _latex_text(text: str) -> str:
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text.translate(_LATEX))
