"""A comparison of two models as one page that needs nothing but itself."""

from collections.abc import Mapping, Sequence

from dgseg.evaluation import charts
from dgseg.evaluation.comparison import RULE, Comparison, boundary_table, classes_table, scores_table
from dgseg.evaluation.page import pictures, sentences
from dgseg.evaluation.pictures import Example
from dgseg.evaluation.report.page import data_uri, render


def comparison_page(
    found: Comparison, models: Mapping[str, str], how: str, shown: Mapping[str, Sequence[Example]]
) -> str:
    """models: "A" and "B" in words; how: what was done, wrapped for terminals."""
    # The average's verdict, where there is one.
    name, verdict = list(found.verdicts.items())[-1]
    difference = 100 * found.differences[name].difference
    return render(
        "models.html",
        title="A and B compared",
        subtitle=" · ".join(f"{model}: {what}" for model, what in models.items()),
        verdict=(f"{difference:+.2f}", f"{name}: mIoU of B minus mIoU of A", verdict),
        scores=scores_table(found),
        differences=data_uri(charts.differences(found.differences, found.better)),
        boundaries={domain: data_uri(charts.boundary_errors(pair)) for domain, pair in found.boundaries().items()},
        boundary_table=boundary_table(found),
        classes=classes_table(found),
        pictures=pictures(shown, RULE),
        method=sentences(how),
    )
