"""A comparison to read and to keep: tables for people in percent, CSV in fractions, LaTeX."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence

from dgseg.evaluation.names import domain_of
from dgseg.evaluation.table import WIDTH, Table
from dgseg.runs.study.comparison import ABSENT, Comparison
from dgseg.runs.study.statistics import SeedDifference, Summary

_CSV = ("score", "seeds", "mean", "std", "baseline", "difference", "low", "high", "confidence", "method", "verdict")


def scores_tables(found: Comparison, width: int = WIDTH) -> list[Table]:
    """As many columns in one as a line holds; a mean of fewer runs than the others says of how many."""
    head = ("", *found.fields, "seeds")
    first = {
        label: (label, *(found.field(label, name) for name in found.fields), str(len(runs)))
        for label, runs in found.groups.items()
    }
    title = "mIoU, %" if all(map(found.is_miou, found.columns)) else "mIoU, and other scores by their names, %"

    def cell(label: str, column: str) -> str:
        one = found.summary(label, column)
        if one is None or one.seeds == len(found.groups[label]):
            return mean_and_std(one)
        return f"{mean_and_std(one)} ({one.seeds} of {len(found.groups[label])})"  # not every run has this score

    return _cut(title, head, first, found.columns, cell, width)


def differences_tables(found: Comparison, width: int = WIDTH) -> list[Table]:
    """Empty without a baseline."""
    baselines = set(found.against.values())
    same = f" from {next(iter(baselines))}" if len(baselines) == 1 else ""
    rows = {label: (label if same else f"{label} − {other}",) for label, other in found.against.items()}
    title = f"Difference{same}, points, with its {100 * found.confidence:g} % interval"
    return _cut(title, ("",), rows, found.columns, lambda row, c: points(found.difference(row, c)), width)


def _cut(
    title: str,
    head: tuple[str, ...],
    first: Mapping[str, tuple[str, ...]],
    columns: Sequence[str],
    cell: Callable[[str, str], str],
    width: int,
) -> list[Table]:
    if not first:
        return []
    cells = {c: [cell(row, c) for row in first] for c in columns}
    taken = sum(2 + max(map(len, texts)) for texts in zip(head, *first.values(), strict=True))
    tables: list[list[str]] = [[]]
    left = width - taken
    for c in columns:
        needs = 2 + max(len(domain_of(c)), *map(len, cells[c]))
        if needs > left and tables[-1]:
            tables.append([])
            left = width - taken
        tables[-1].append(c)
        left -= needs
    return [
        Table(
            title,
            (*head, *map(domain_of, part)),
            tuple((*texts, *(cells[c][place] for c in part)) for place, texts in enumerate(first.values())),
        )
        for part in tables
    ]


def mean_and_std(found: Summary | None) -> str:
    if found is None:
        return ABSENT
    return f"{100 * found.mean:.2f}" + ("" if found.std is None else f" ± {100 * found.std:.2f}")


def points(found: SeedDifference | None) -> str:
    """+1.20 [+0.30, +2.10]; a star where the interval excludes 0."""
    if found is None:
        return ABSENT
    if found.low is None or found.high is None:
        return f"{100 * found.mean:+.2f}"
    star = "*" if found.beyond_noise else ""
    return f"{100 * found.mean:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]{star}"


def as_csv(found: Comparison) -> str:
    """A row per group and score, in fractions; empty where there is nothing to say."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["group", *found.fields, *_CSV]
    writer.writerow(head)
    for label in found.groups:
        shown = [found.field(label, name) for name in found.fields]
        for column in found.columns:
            one, other = found.summary(label, column), found.difference(label, column)
            if one is None:
                continue
            row = [label, *shown, column, str(one.seeds), repr(one.mean), _number(one.std)]
            if other is not None:
                row += [found.against[label], repr(other.mean), _number(other.low), _number(other.high)]
                row += [str(found.confidence), other.method, other.verdict]
            writer.writerow([*row, *[""] * (len(head) - len(row))])
    return text.getvalue()


def as_latex(found: Comparison) -> str:
    """Tables for \\usepackage{booktabs}, one below the other."""
    parts = [_latex(table) for table in (*scores_tables(found, 10_000), *differences_tables(found, 10_000))]
    said = "\n".join(f"% {line}" for line in (found.method, *found.notes))
    return f"{said}\n" + "\n".join(parts)


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        text = " & ".join(map(_escaped, cells)) + r" \\"
        # What begins with these would be an option of the rule or the line break above it.
        return "{}" + text if text.startswith(("[", "*")) else text

    return "\n".join(
        [
            f"% {table.title}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
            r"\toprule",
            line(table.head),
            r"\midrule",
            *(line(row) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "−": "$-$", "–": "--",
})  # fmt: skip


def _escaped(text: str) -> str:
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text.translate(_LATEX))


def as_markdown(table: Table) -> str:
    rows = [table.head, ("---", *["---:"] * (len(table.head) - 1)), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)
