"""Figures whose words are words: no `$` of a domain's or a run's name begins mathematics."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text


class Chart(Figure):
    """`chart.savefig(file)` writes PNG, SVG or PDF."""

    def draw(self, renderer: Any) -> None:
        with matplotlib.rc_context({"text.parse_math": False}):  # for what is made while it is drawn, as ticks are
            for text in self.findobj(Text):
                text.set_parse_math(False)
            super().draw(renderer)

    def svg(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="svg", metadata={"Date": None})
        return content.getvalue()
