"""A comparison as one page that needs nothing but itself."""

from dataclasses import replace
from html import escape

from dgseg.evaluation.names import miou
from dgseg.evaluation.page import document, plot, table_of
from dgseg.evaluation.table import Table
from dgseg.runs.study import charts
from dgseg.runs.study.comparison import ABSENT, Comparison
from dgseg.runs.study.records import VALIDATION
from dgseg.runs.study.tables import differences_tables, scores_tables


def comparison_page(found: Comparison, heading: str) -> str:
    curves = charts.learning_curves(found)
    sections = [
        ("Scores", "".join(map(_unbroken, scores_tables(found))) + plot(charts.bars(found), "scores of every group")),
        ("Differences", _differences(found)),
        ("Learning curves", plot(curves, "loss and validation over steps") + _SHADE if curves else ""),
        ("Runs", table_of(_runs(found)).replace("<table>", "<table class=facts>")),
        (
            "How this was compared",
            "".join(f"<p class=note>{escape(line)}</p>" for line in (found.method, *found.notes)),
        ),
    ]
    runs = sum(map(len, found.groups.values()))
    return document(heading, heading, f"{len(found.groups)} groups · {runs} runs", sections)


def _unbroken(table: Table) -> str:
    """A mean and its deviation stay on one line."""
    rows = tuple(tuple(cell.replace(" ", "\N{NO-BREAK SPACE}") for cell in row) for row in table.rows)
    return table_of(replace(table, rows=rows))


_SHADE = "<p class=note>Lines are means over seeds; the shade reaches from the least to the greatest.</p>"


def _differences(found: Comparison) -> str:
    tables = "".join(map(_unbroken, differences_tables(found)))
    if not tables:
        return ""
    sentences = "".join(
        f"<li>{escape(found.sentence(label, column))}</li>"
        for label in found.against
        for column in headline(found)
        if found.difference(label, column) is not None
    )
    return f"<ul>{sentences}</ul>{tables}"


def headline(found: Comparison) -> list[str]:
    """Scores to say a sentence about: the widest average, where there is one, and how unknown objects are found."""
    widest = map(miou, ("all", "Avg5", "Avg2", "adverse"))
    shown = [name for name in widest if name in found.columns]
    shown = shown[:1] + (["AP"] if "AP" in found.columns else [])
    return shown or [name for name in found.columns if name != VALIDATION][:1]


def _runs(found: Comparison) -> Table:
    rows = [
        (run.name, label, str(run.seed), run.commit[:12] if run.commit else ABSENT, run.where)
        for label, runs in found.groups.items()
        for run in runs
    ]
    return Table("Every run that counts", ("run", "group", "seed", "commit", "where"), tuple(rows))
