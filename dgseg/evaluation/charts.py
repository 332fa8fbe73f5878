"""Plots of what was counted. Each returns a Chart: `chart.savefig(file)` writes PNG, SVG or PDF."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm

from dgseg.data.labels import CLASSES, COLOURS
from dgseg.evaluation.bootstrap import Difference
from dgseg.evaluation.boundary import BoundaryErrors
from dgseg.evaluation.calibration import CalibrationResult
from dgseg.evaluation.confusion import Confusion
from dgseg.evaluation.embedding import Cloud
from dgseg.evaluation.ood import Curves
from dgseg.evaluation.report.chart import Chart

# Told apart by colour-blind eyes (Okabe and Ito), and by their markers in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv<>"
Floats = npt.NDArray[np.float64]


def confusion_heat_map(confusion: Confusion, classes: Sequence[str] = CLASSES) -> Chart:
    """Of each class's pixels, the share predicted as each class, in percent. The colour grows with the square root, so
    that confusions of a few percent are seen. Classes without a pixel are left white."""
    pixels = confusion.matrix.cpu().numpy().astype(np.float64)
    columns = list(classes)
    if pixels[:, -1].any():
        columns.append("void")
    pixels, total = pixels[:, : len(columns)], pixels.sum(1, keepdims=True)
    share = 100 * np.divide(pixels, total, out=np.full_like(pixels, np.nan), where=total > 0)
    figure = Chart(figsize=(1.5 + 0.46 * len(columns), 1.3 + 0.42 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(share, cmap="viridis", norm=PowerNorm(0.5, 0, 100), aspect="auto")
    _write_cells(axes, np.where(share >= 0.95, share, np.nan), black_above=45)
    axes.set_xticks(range(len(columns)), columns, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    figure.colorbar(shown, ax=axes, label="% of the class's pixels", ticks=[0, 1, 5, 20, 50, 100])
    return figure


def reliability_diagram(results: Mapping[str, CalibrationResult]) -> Chart:
    """Accuracy against confidence, below the line: overconfident; under it how many pixels have which confidence."""
    figure = Chart(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="calibrated")
    for style, (name, result) in zip(_styles(), results.items(), strict=False):
        upper.plot(result.confidence, result.accuracy, label=f"{name} (ECE {result.ece:.3f})", **style)
        edges = np.linspace(0, 1, len(result.pixels) + 1)
        share = result.pixels / max(int(result.pixels.sum()), 1)
        lower.stairs(share, edges, color=style["color"])
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left")
    lower.set(xlabel="confidence", ylabel="share of pixels", ylim=(0, None))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure


def boundary_errors(tallies: Mapping[str, BoundaryErrors]) -> Chart:
    """Error rate by distance to the nearest class boundary; one line per domain or model."""
    names = _same_bands(tallies)
    return _curves(
        {name: 100 * tally.error() for name, tally in tallies.items()},
        names,
        xlabel="distance to the nearest class boundary",
        ylabel="wrong pixels, %",
    )


def trimap_curves(tallies: Mapping[str, BoundaryErrors], classes: Sequence[int] | None = None) -> Chart:
    """mIoU of the pixels within a distance of a boundary, and of all of them. classes: over these alone."""
    _same_bands(tallies)
    radii = next(iter(tallies.values())).radii
    return _curves(
        {name: [100 * scores.miou for scores in tally.trimap(classes)] for name, tally in tallies.items()},
        [*(f"≤ {radius} px" for radius in radii), "all"],
        xlabel="pixels within this distance of a boundary",
        ylabel="mIoU, %",
    )


def _curves(values: Mapping[str, Sequence[float] | Floats], ticks: Sequence[str], *, xlabel: str, ylabel: str) -> Chart:
    figure = Chart(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for style, (name, curve) in zip(_styles(), values.items(), strict=False):
        axes.plot(range(len(ticks)), curve, label=name, **style)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def class_boundary_errors(tally: BoundaryErrors, classes: Sequence[str] = CLASSES) -> Chart:
    """Error rate by class and distance, in percent; white where a class has no pixel."""
    error = 100 * tally.class_error().T
    figure = Chart(figsize=(2.6 + 0.75 * error.shape[1], 1 + 0.34 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(error, cmap="magma", vmin=0, vmax=100, aspect="auto")
    _write_cells(axes, error, black_above=60)
    axes.set_xticks(range(error.shape[1]), tally.names)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("distance to the nearest class boundary")
    figure.colorbar(shown, ax=axes, label="wrong pixels, %")
    return figure


def ood_curves(curves: Mapping[str, Curves]) -> Chart:
    """Precision over recall, and the ROC curve, of out-of-distribution scores."""
    figure = Chart(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for style, (name, curve) in zip(_styles(), curves.items(), strict=False):
        line = {"color": style["color"], "label": name}
        left.plot(*_thinned(curve.true_positive_rate, curve.precision), **line)
        right.plot(*_thinned(curve.false_positive_rate, curve.true_positive_rate), **line)
    right.axhline(0.95, color="grey", linestyle="--", linewidth=1)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    right.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.02))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    return figure


def boundary_comparison(domains: Mapping[str, Mapping[str, BoundaryErrors]]) -> Chart:
    """A plot per domain, all of one height: the error rates of several models by distance to a boundary."""
    columns = min(3, len(domains))
    rows = -(-len(domains) // columns)
    figure = Chart(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (domain, tallies) in zip(grid.flat, domains.items(), strict=False):
        names = _same_bands(tallies)
        for style, (model, tally) in zip(_styles(), tallies.items(), strict=False):
            axes.plot(range(len(names)), 100 * tally.error(), label=model, **style)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        axes.set(title=domain, ylim=(0, None))
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(domains) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel("wrong pixels, %")
    grid[0, 0].legend()
    figure.supxlabel("distance to the nearest class boundary", fontsize="medium")
    return figure


def differences(found: Mapping[str, Difference], better: Mapping[str, str]) -> Chart:
    """mIoU of B minus mIoU of A per domain, with its interval; in colour where A or B is `better`."""
    figure = Chart(figsize=(6.4, 1.2 + 0.42 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="black", linewidth=1)
    for place, (name, each) in enumerate(found.items()):
        colour = {"A": _COLOURS[1], "B": _COLOURS[2]}.get(better[name], "grey")
        axes.plot([100 * each.low, 100 * each.high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(100 * each.difference, place, "o", color=colour, markersize=8)
    axes.set_yticks(range(len(found)), found)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("mIoU of B minus mIoU of A, points")
    axes.grid(alpha=0.3, axis="x")
    return figure


def embedding(models: Mapping[str, Sequence[Cloud]]) -> Chart:
    """A row per model, a column per cloud; classes in their own colours, domains in this page's."""
    rows, columns = len(models), max(map(len, models.values()))
    figure = Chart(figsize=(4.3 * columns, 4.2 * rows + 1.4), layout="constrained")
    grid = figure.subplots(rows + 1, columns, squeeze=False, height_ratios=[4.2] * rows + [1.4])
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for line, (row, (model, clouds)) in enumerate(zip(grid, models.items(), strict=False)):
        for axes, cloud in zip(row, clouds, strict=False):
            by_class = cloud.names == CLASSES
            for place in np.unique(cloud.groups).tolist():
                x, y = cloud.points[cloud.groups == place].T
                colour = COLOURS[place] / 255 if by_class else _COLOURS[place % len(_COLOURS)]
                size = 14 if len(cloud.points) > 300 else 36
                axes.scatter(x, y, s=size, color=colour, lw=0.3, ec="white", label=cloud.names[place], alpha=0.9)
            apart = "–" if np.isnan(cloud.silhouette) else f"{cloud.silhouette:.2f}"
            axes.set(title="" if line else cloud.title, xlabel=f"silhouette {apart}")
        row[0].set_ylabel(model, fontsize=13)
        for axes in row[len(clouds) :]:
            axes.set_visible(False)
    for axes, above in zip(grid[-1], grid[0], strict=True):
        axes.axis("off")
        handles, names = above.get_legend_handles_labels()
        if handles:
            axes.legend(handles, names, loc="upper center", ncols=3, frameon=False, fontsize=8, markerscale=1.6)
    return figure


def _write_cells(axes: Any, values: Floats, black_above: float) -> None:
    for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
        value = values[row, column]
        colour = "black" if value > black_above else "white"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)


def _thinned(x: Floats, y: Floats) -> tuple[Any, Any]:
    """At most some 2,000 points: an SVG of 65,536 opens slowly."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), 2000)).round().astype(np.intp))
    return x[keep], y[keep]


def _styles() -> list[dict[str, Any]]:
    """For up to 35 lines: every marker in every colour."""
    return [
        {"color": colour, "marker": _MARKERS[(place + turn) % len(_MARKERS)], "markersize": 5}
        for turn in range(5)
        for place, colour in enumerate(_COLOURS)
    ]


def _same_bands(tallies: Mapping[str, BoundaryErrors]) -> tuple[str, ...]:
    names = {tally.names for tally in tallies.values()}
    if len(names) != 1:
        raise ValueError(f"give tallies of the same bands; these have {sorted(names) or 'none'}")
    return names.pop()
