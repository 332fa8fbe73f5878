"""Tables, charts and pages, whatever signs the names in them hold."""

import csv
import io
import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from dgseg.evaluation.report.chart import Chart
from dgseg.evaluation.report.page import data_uri, render
from dgseg.evaluation.report.table import Table, csv_text, finite, percent, points

HOSTILE = "$x^$ <b>&\"'_{{ 7*7 }}|[red]"
TABLE = Table(
    "Scores, %", ("domain", "mIoU", HOSTILE), (("fog", "50.00", "-1.5"), ("night", "–", "2 ± 1")), frozenset({1})
)


def test_a_table_as_text_and_markdown() -> None:
    lines = TABLE.text().splitlines()
    assert lines[0] == "Scores, %"
    assert lines[3] == lines[1].replace("domain", "fog   ").replace("  mIoU", " 50.00").replace(
        HOSTILE, "-1.5".rjust(len(HOSTILE))
    )
    assert lines[2] == lines[4] == "-" * len(lines[1])
    rows = TABLE.markdown().splitlines()
    assert rows[1] == "| --- | ---: | ---: |"
    assert rows[0].count("|") - rows[0].count(r"\|") == 4


def test_a_table_as_latex() -> None:
    text = TABLE.latex()
    assert r"\$x\textasciicircum{}\$" in text
    assert text.count(r"\midrule") == 2
    assert r"fog & 50.00 & $-$1.5 \\" in text
    assert r"2 $\pm$ 1" in text
    starred = Table("", ("", "a"), (("*", "1"), ("[x]", "2")))
    assert [line[:3] for line in starred.latex().splitlines() if "&" in line] == [" & ", "{}*", "{}["]


def test_folding_keeps_every_column_once() -> None:
    head = ("domain", "images", *(f"score {i}" for i in range(9)))
    table = Table("", head, (tuple("abcdefghijk"),))
    parts = table.fold(40, fixed=2)
    assert [name for part in parts for name in part.head[2:]] == list(head[2:])
    assert all(part.head[:2] == head[:2] for part in parts)
    assert all(max(map(len, part.text().splitlines())) <= 40 for part in parts)
    assert table.fold(1000) == [table]
    assert len(table.fold(5)) == 10  # one column at a time, however narrow the line


def test_csv_keeps_every_digit_and_leaves_out_what_there_is_not() -> None:
    text = csv_text(["a", "b", "c", "d"], [["x,y", 0.1 + 0.2, math.nan, 3], [None, 1.0]])
    assert list(csv.reader(io.StringIO(text))) == [
        ["a", "b", "c", "d"],
        ["x,y", "0.30000000000000004", "", "3"],
        ["", "1.0", "", ""],
    ]


def test_numbers() -> None:
    assert [finite(each) for each in (0.5, math.nan, math.inf, None)] == [0.5, None, None, None]
    assert [percent(0.12345), percent(math.nan), points(-0.00001), points(0.015)] == ["12.35", "–", "+0.00", "+1.50"]


def test_a_dollar_in_a_name_is_no_mathematics() -> None:
    """In every kind of text: labels, ticks, legends, titles, and ticks that matplotlib makes while it draws."""
    chart = Chart(layout="constrained")
    axes = chart.add_subplot()
    axes.plot([0, 1], label=HOSTILE)
    axes.set_xticks([0, 1], [HOSTILE, "$\\nosuch$"])
    axes.set(title="$_", xlabel="$x^$", ylabel="costs 5 $ or 6 $")
    axes.yaxis.set_major_formatter(lambda value, _: f"${value:g}^$")
    chart.legend(title="$^$")
    before = matplotlib.rcParams["text.parse_math"]
    svg = chart.svg()
    assert matplotlib.rcParams["text.parse_math"] == before
    assert svg.startswith(b"<?xml")
    buffer = io.BytesIO()
    chart.savefig(buffer, format="png", bbox_inches="tight")
    assert Image.open(buffer).width > 100


def test_a_page_escapes_what_it_is_given() -> None:
    text = render(
        "models.html", title=HOSTILE, subtitle=HOSTILE, verdict=("+1", HOSTILE, HOSTILE), scores=TABLE,
        differences="data:,", boundaries={}, classes=TABLE, pictures={"examples": {}}, method=[HOSTILE],
    )  # fmt: skip
    assert "<b>&" not in text
    assert "49" not in text.split("</style>")[1].split("<script>")[0].replace("{{ 7*7 }}", "")
    assert "$x^$ &lt;b&gt;&amp;&#34;&#39;_{{ 7*7 }}|[red]" in text
    assert 'href="#scores"' in text
    assert 'href="#pictures"' not in text  # an empty section


def test_a_value_that_a_page_lacks_is_an_error() -> None:
    with pytest.raises(Exception, match="'verdict' is undefined"):
        render("models.html", title="")


def test_label_maps_keep_their_colours() -> None:
    labels = np.zeros((8, 2000, 3), np.uint8)
    labels[:, 1000:] = (220, 20, 60)
    assert data_uri(labels, smooth=False).startswith("data:image/png;base64,")
    assert data_uri(labels).startswith("data:image/jpeg;base64,")
