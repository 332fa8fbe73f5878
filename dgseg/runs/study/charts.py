"""Plots of compared runs. Each returns a Chart."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np

from dgseg.evaluation.names import domain_of
from dgseg.evaluation.report.chart import Chart
from dgseg.runs.study.comparison import Comparison
from dgseg.runs.study.records import DETECTION, LOWER_IS_BETTER, VALIDATION, Record
from dgseg.runs.study.statistics import summary

_PAIRS = matplotlib.color_sequences["tab20"]
COLOURS = _PAIRS[::2] + _PAIRS[1::2]  # ten, then their pale ones
Lines = Mapping[str, Sequence[tuple[float, str]]]  # of a line: its places on the axis, and the group that stands there


def bars(found: Comparison, columns: Sequence[str] = (), labels: Sequence[str] = ()) -> Chart:
    """Means, standard deviations, and a dot for every seed; of these groups, or all. Scores of unknown objects stand
    each on its own scale."""
    columns, labels = columns or found.columns, labels or list(found.groups)
    apart = [[column] for column in columns if column in DETECTION]
    together = [column for column in columns if column not in DETECTION]
    rows = [row for row in (apart, [together] if together else []) if row]  # of axes, each of its columns
    wide = min(15.0, 3 + 0.2 * len(columns) * (1 + len(labels)))
    figure = Chart(figsize=(wide, 1.6 + 3.0 * len(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), 1)
    for place, row in enumerate(rows):
        inside = grid[place].subgridspec(1, len(row))
        for across, shown in enumerate(row):
            _bars(figure.add_subplot(inside[across]), found, shown, labels)
        of_what = "mIoU, " if all(map(found.is_miou, row[0])) else ""
        figure.axes[-len(row)].set_ylabel(f"{of_what}%, ± std over seeds")
    _legend(figure, figure.axes[0])
    return figure


def _bars(axes: Any, found: Comparison, columns: Sequence[str], labels: Sequence[str]) -> None:
    width = 0.8 / len(labels)
    for place, (label, colour) in enumerate(zip(labels, cycle(COLOURS), strict=False)):
        shown = [(c, values) for c, column in enumerate(columns) if (values := found.values(label, column))]
        spots = np.array([c for c, _ in shown]) + width * (place - (len(labels) - 1) / 2)
        means = [summary(list(values.values())) for _, values in shown]
        axes.bar(
            spots,
            [100 * each.mean for each in means],
            0.92 * width,
            yerr=[100 * (each.std or 0.0) for each in means],
            error_kw={"elinewidth": 1, "ecolor": "#333333"},
            color=colour,
            alpha=0.75,
            label=label,
        )
        for spot, (_, values) in zip(spots, shown, strict=True):
            axes.plot([spot] * len(values), [100 * v for v in values.values()], ".", color="#222222", markersize=3)
    names = [f"{column}, lower is better" if column in LOWER_IS_BETTER else domain_of(column) for column in columns]
    slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(columns) > 1 else {}
    axes.set_xticks(range(len(columns)), names, **slant)
    axes.set(ylim=(0, None), xlim=(-0.6, len(columns) - 0.4))
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)


def learning_curves(found: Comparison) -> Chart | None:
    """Means over seeds between the least and the greatest; None where no run has kept its points."""
    titles = {
        "loss": ("training loss", "as each minimises it: other objectives, other sums"),
        VALIDATION: ("validation mIoU, %", ""),
    }
    kinds = [kind for kind in titles if any(len(run.curves.get(kind, ())) > 1 for run in _runs(found))]
    if not kinds:
        return None
    figure = Chart(figsize=(6.2 * len(kinds), 4.6), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        scale = 100 if kind == VALIDATION else 1
        for (label, runs), colour in zip(found.groups.items(), cycle(COLOURS), strict=False):
            curves = [dict(run.curves[kind]) for run in runs if kind in run.curves]
            if not curves:
                continue
            steps = sorted(set.intersection(*map(set, curves)))
            values = scale * np.array([[curve[step] for step in steps] for curve in curves])
            axes.plot(steps, values.mean(0), color=colour, label=label, marker="." if len(steps) < 12 else None)
            axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
        axes.set(xlabel="step", ylabel=titles[kind][0])
        axes.set_title(titles[kind][1], fontsize="small")
        axes.grid(alpha=0.3)
    _legend(figure, figure.axes[0])
    return figure


def lines(found: Comparison, panels: Mapping[str, Lines], columns: Sequence[str]) -> Chart:
    """A row per score, a column per panel (what varies): means, standard deviations, a dot for every seed."""
    figure = Chart(figsize=(1.2 + 4.2 * len(panels), 0.8 + 2.9 * len(columns)), layout="constrained")
    grid = figure.subplots(len(columns), len(panels), squeeze=False, sharey="row", sharex="col")
    for row, column in zip(grid, columns, strict=True):
        for axes, of_panel in zip(row, panels.values(), strict=True):
            for (line, points), colour in zip(of_panel.items(), COLOURS, strict=False):
                _line(axes, found, [point for point in points if point[1] in found.groups], column, line, colour)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(f"mIoU, {domain_of(column)}, %, ± std")
    for axes, (title, of_panel) in zip(grid[-1], panels.items(), strict=True):
        places = sorted({x for points in of_panel.values() for x, _ in points})
        if places[0] > 0 and places[-1] >= 10 * places[0]:
            axes.set_xscale("log")
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(title)
    if any(len(of_panel) > 1 for of_panel in panels.values()):
        grid[0, 0].legend()
    return figure


def _line(
    axes: Any, found: Comparison, points: Sequence[tuple[float, str]], column: str, line: str, colour: Any
) -> None:
    shown = [(x, values) for x, label in points if (values := found.values(label, column))]
    if not shown:
        return
    places = [x for x, _ in shown]
    means = [summary(list(values.values())) for _, values in shown]
    axes.errorbar(
        places,
        [100 * each.mean for each in means],
        yerr=[100 * (each.std or 0.0) for each in means],
        color=colour,
        marker="o",
        capsize=3,
        label=line,
    )
    for x, values in shown:
        axes.plot([x] * len(values), [100 * value for value in values.values()], ".", color=colour, alpha=0.5)


def _legend(figure: Chart, axes: Any) -> None:
    """Above everything, as many names in a row as fit."""
    handles, names = axes.get_legend_handles_labels()
    columns = max(1, int(figure.get_figwidth() / (0.7 + 0.085 * max(map(len, names)))))
    figure.legend(handles, names, loc="outside upper left", ncols=min(columns, len(names)), frameon=False)


def _runs(found: Comparison) -> list[Record]:
    return [run for runs in found.groups.values() for run in runs]
