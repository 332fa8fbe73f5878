"""A comparison to read and to keep: tables for people in percent, CSV in fractions, LaTeX."""

from collections.abc import Sequence

from dgseg.evaluation.names import domain_of
from dgseg.evaluation.report.table import ABSENT, WIDTH, Cell, Table, csv_text
from dgseg.runs.study.comparison import Comparison
from dgseg.runs.study.statistics import SeedDifference, Summary

_CSV = ("score", "seeds", "mean", "std", "baseline", "difference", "low", "high", "confidence", "method", "verdict")


_LONGEST = 30  # characters of a setting


def scores_tables(found: Comparison, width: int = WIDTH) -> list[Table]:
    """As many columns in one as a line holds; a mean of fewer runs than the others says of how many. Groups that share
    no domain have tables of their own."""
    return [
        table
        for labels in found.families
        for table in _scores(found, labels, found.scored(labels)).fold(width, 2 + len(found.fields))
    ]


def _scores(found: Comparison, labels: Sequence[str], columns: Sequence[str]) -> Table:
    def cell(label: str, column: str) -> str:
        one = found.summary(label, column)
        if one is None or one.seeds == len(found.groups[label]):
            return mean_and_std(one)
        return f"{mean_and_std(one)} ({one.seeds} of {len(found.groups[label])})"  # not every run has this score

    rows = tuple(
        (
            label,
            *(found.field(label, name) for name in found.fields),
            str(len(found.groups[label])),
            *(cell(label, column) for column in columns),
        )
        for label in labels
    )
    title = "mIoU, %" if all(map(found.is_miou, columns)) else "mIoU, and other scores by their names, %"
    return Table(title, ("", *found.fields, "seeds", *map(domain_of, columns)), rows)


def differences_tables(found: Comparison, width: int = WIDTH) -> list[Table]:
    """Empty without a baseline."""
    baselines = set(found.against.values())
    same = f" from {next(iter(baselines))}" if len(baselines) == 1 else ""
    title = f"Difference{same}, points, with its {100 * found.confidence:g} % interval"
    columns = [c for c in found.columns if any(found.difference(label, c) for label in found.against)]
    rows = tuple(
        (label if same else f"{label} − {other}", *(points(found.difference(label, c)) for c in columns))
        for label, other in found.against.items()
        if any(found.difference(label, c) for c in columns)
    )
    return Table(title, ("", *map(domain_of, columns)), rows).fold(width) if rows else []


def settings_tables(found: Comparison, width: int = WIDTH) -> list[Table]:
    """What stands behind the labels: for every recipe of which there are several groups, how they differ."""
    recipes: dict[tuple[str, ...], list[str]] = {}
    for label, settings in found.settings.items():
        recipes.setdefault(tuple(settings), []).append(label)
    return [
        table
        for names, labels in recipes.items()
        for table in Table(
            "What differs",
            ("setting", *labels),
            tuple((name, *(_shortened(found.settings[label][name]) for label in labels)) for name in names),
        ).fold(width)
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


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
    rows: list[list[Cell]] = []
    for label in found.groups:
        shown = [found.field(label, name) for name in found.fields]
        for column in found.columns:
            one, other = found.summary(label, column), found.difference(label, column)
            if one is None:
                continue
            row: list[Cell] = [label, *shown, column, one.seeds, one.mean, one.std]
            if other is not None:
                row += [found.against[label], other.mean, other.low, other.high]
                row += [found.confidence, other.method, other.verdict]
            rows.append(row)
    return csv_text(["group", *found.fields, *_CSV], rows)


def as_latex(found: Comparison) -> str:
    """Tables for \\usepackage{booktabs}, one below the other."""
    parts = [table.latex() for table in (*scores_tables(found, 10_000), *differences_tables(found, 10_000))]
    comments = "\n".join(f"% {line}" for line in (found.method, *found.notes))
    return f"{comments}\n" + "\n".join(parts)
