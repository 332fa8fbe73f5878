"""A comparison as one page that needs nothing but itself."""

from dgseg.evaluation.report.page import data_uri, render
from dgseg.evaluation.report.table import ABSENT, Table
from dgseg.runs.study import charts
from dgseg.runs.study.comparison import Comparison, sentences
from dgseg.runs.study.tables import differences_tables, scores_tables, settings_tables


def comparison_page(found: Comparison, title: str) -> str:
    curves = charts.learning_curves(found)
    return render(
        "runs.html",
        title=title,
        subtitle=f"{len(found.groups)} groups · {sum(map(len, found.groups.values()))} runs",
        scores=scores_tables(found),
        settings=settings_tables(found),
        bars=[data_uri(charts.bars(found, found.scored(labels), labels)) for labels in found.families],
        sentences=sentences(found),
        differences=differences_tables(found),
        curves=data_uri(curves) if curves else None,
        runs=_runs(found),
        method=(found.method, *found.notes),
    )


def _runs(found: Comparison) -> Table:
    rows = [
        (run.name, label, str(run.seed), run.commit[:12] if run.commit else ABSENT, run.where)
        for label, runs in found.groups.items()
        for run in runs
    ]
    return Table("Every run that counts", ("run", "group", "seed", "commit", "where"), tuple(rows))
