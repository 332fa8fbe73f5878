"""A comparison of two models as one page that needs nothing but itself."""

from collections.abc import Mapping, Sequence
from html import escape

from dgseg.evaluation import charts
from dgseg.evaluation.comparison import RULE, Comparison, boundary_table, classes_table, scores_table
from dgseg.evaluation.page import document, pictures, plot, table_of, tabs
from dgseg.evaluation.pictures import Example


def comparison_page(
    found: Comparison, models: Mapping[str, str], how: str, shown: Mapping[str, Sequence[Example]]
) -> str:
    """models: "A" and "B" in words; how: what was done, wrapped for terminals: indented lines go on."""
    boundaries = found.boundaries()
    curves = {
        domain: plot(charts.boundary_errors(pair), f"{domain}: error by distance")
        for domain, pair in boundaries.items()
    }
    lines = "".join(f"<li>{escape(line)}</li>" for line in how.replace("\n  ", " ").split("\n"))
    sections = [
        (
            "Scores",
            _verdicts(found)
            + table_of(scores_table(found))
            + "<h3>Differences and their intervals</h3>"
            + plot(charts.differences(found.differences, found.better), "intervals"),
        ),
        ("Boundaries", tabs("boundaries", curves) + table_of(boundary_table(found)) if curves else ""),
        ("Classes", table_of(classes_table(found)) + "<p class=note>Single classes are not tested against noise.</p>"),
        ("Pictures", pictures(shown, RULE)),
        ("How this was done", f"<ul>{lines}</ul>"),
    ]
    subtitle = " · ".join(f"{name}: {what}" for name, what in models.items())
    return document("A and B compared", "A and B compared", subtitle, sections)


def _verdicts(found: Comparison) -> str:
    """The average's, where there is one, said first."""
    name, words = list(found.verdicts.items())[-1]
    difference = found.differences[name]
    return (
        f'<div class=tiles><div class="tile"><b>{100 * difference.difference:+.2f}</b>'
        f"<span>{escape(name)}: mIoU of B minus mIoU of A</span></div></div><p><b>{escape(words)}.</b></p>"
    )
