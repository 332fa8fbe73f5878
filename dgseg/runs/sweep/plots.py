"""A sweep's pictures. Each returns a matplotlib Figure. Trials that were stopped early are drawn faint and open: their
scores are those of less training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dgseg.runs.sweep.record import TrialRecord, best
from dgseg.runs.sweep.space import Parameter
from dgseg.runs.sweep.summary import shown

_MAP = colormaps["viridis"]


def parallel_coordinates(trials: Sequence[TrialRecord], parameters: Sequence[Parameter], metric: str) -> Figure:
    """A line per trial over one axis per parameter, the last axis its newest score, which is also its colour."""
    scored = [each for each in trials if each.score is not None]
    figure = Figure(figsize=(3 + 1.7 * len(parameters), 4.8), layout="constrained")
    axes = figure.add_subplot()
    if not scored:
        axes.text(0.5, 0.5, "no trial has a score yet", ha="center")
        axes.set_axis_off()
        return figure
    scores = np.array([100 * (each.score or 0.0) for each in scored])
    norm = _norm(scores)
    columns = [_places([each.values[one.name] for each in scored], one) for one in parameters]
    columns.append((norm(scores), [(float(norm(t)), f"{t:.1f}") for t in np.linspace(scores.min(), scores.max(), 5)]))
    top = best(scored)
    for row, trial in enumerate(scored):
        full = trial.status == "finished"
        axes.plot(
            range(len(columns)),
            [places[row] for places, _ in columns],
            color=_MAP(float(norm(scores[row]))),
            linewidth=3.5 if trial is top else 1.6,
            alpha=1.0 if full else 0.35,
            linestyle="-" if full else "--",
            zorder=3 if full else 2,
        )
    for place, (_, ticks) in enumerate(columns):
        axes.axvline(place, color="0.6", linewidth=0.8, zorder=1)
        for height, text in ticks:
            axes.annotate(text, (place, height), (4, 0), textcoords="offset points", va="center", fontsize=8, zorder=4)
    axes.set_xticks(range(len(columns)), [*(each.short for each in parameters), f"{metric}, %"])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.colorbar(ScalarMappable(norm, _MAP), ax=axes, label=f"{metric}, % (dashed: stopped early)", pad=0.01)
    return figure


def slices(trials: Sequence[TrialRecord], parameters: Sequence[Parameter], metric: str) -> Figure:
    """Scores over each parameter by itself; colour is how many steps the trial came to."""
    scored = [each for each in trials if each.score is not None]
    columns = min(4, len(parameters))
    rows = -(-len(parameters) // columns)
    figure = Figure(figsize=(1 + 2.9 * columns, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    norm = Normalize(0, max((each.step for each in scored), default=1))
    top = best(scored)
    for axes, one in zip(grid.flat, parameters, strict=False):
        names = list(getattr(one.distribution, "choices", []))
        for trial in scored:
            value = trial.values[one.name]
            colour = _MAP(float(norm(trial.step)))
            axes.scatter(
                names.index(value) if names else value,
                100 * (trial.score or 0.0),
                s=110 if trial is top else 45,
                marker="*" if trial is top else "o",
                edgecolors=[colour],
                facecolors=[colour] if trial.status == "finished" else "none",
            )
        if names:
            axes.set_xticks(range(len(names)), [str(each) for each in names], rotation=20)
        else:
            own = one.default
            axes.axvline(own, color="0.7", linestyle=":", linewidth=1)
            low, high, marks = _axis(one, 4)
            axes.set_xscale("log" if one.log else "linear")
            axes.set_xticks(marks, [shown(float(mark)) for mark in marks])
            axes.set_xticks([], minor=True)
            margin = (high / low) ** 0.05 if one.log else 0.05 * (high - low)
            axes.set_xlim(*((low / margin, high * margin) if one.log else (low - margin, high + margin)))
        axes.set_xlabel(one.short)
    for axes in list(grid.flat)[len(parameters) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel(f"{metric}, %")
    figure.colorbar(ScalarMappable(norm, _MAP), ax=grid, label="steps")
    # Beside the colours it would be longer than a single row is high.
    figure.suptitle("open: stopped early; star: best; dotted: the recipe's own value", fontsize="small")
    return figure


def _places(values: Sequence[Any], one: Parameter) -> tuple[npt.NDArray[np.float64], list[tuple[float, str]]]:
    """Heights from 0 to 1 on the parameter's axis, and its ticks."""
    names = list(getattr(one.distribution, "choices", []))
    if names:
        last = max(1, len(names) - 1)
        return (
            np.array([names.index(each) / last for each in values]),
            [(place / last, str(name)) for place, name in enumerate(names)],
        )
    low, high, marks = _axis(one, 5)
    scale = np.log if one.log else np.asarray
    ends = np.array(scale([low, high]), dtype=np.float64)
    heights = (np.array(scale(np.array(values, dtype=np.float64))) - ends[0]) / (ends[1] - ends[0])
    return heights, [(place, shown(float(mark))) for place, mark in zip(np.linspace(0, 1, 5), marks, strict=True)]


def _axis(one: Parameter, ticks: int) -> tuple[float, float, npt.NDArray[np.float64]]:
    """From where to where a number is searched, and its ticks."""
    bounds: Any = one.distribution
    spaced = np.geomspace if one.log else np.linspace
    return float(bounds.low), float(bounds.high), spaced(bounds.low, bounds.high, ticks)


def _norm(scores: npt.NDArray[np.float64]) -> Normalize:
    low, high = float(scores.min()), float(scores.max())
    return Normalize(low, high if high > low else low + 1.0)
