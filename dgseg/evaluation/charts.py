"""Plots of what was counted. Each returns a matplotlib Figure: `figure.savefig(file)` writes PNG, SVG or PDF."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from dgseg.data.labels import CLASSES
from dgseg.evaluation.boundary import BoundaryErrors
from dgseg.evaluation.calibration import CalibrationResult
from dgseg.evaluation.confusion import Confusion
from dgseg.evaluation.ood import Curves

# Told apart by colour-blind eyes (Okabe and Ito), and by their markers in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv<>"


def confusion_heat_map(confusion: Confusion, classes: Sequence[str] = CLASSES) -> Figure:
    """Of each class's pixels, the share predicted as each class, in percent. The colour grows with the square root, so
    that confusions of a few percent are seen. Classes without a pixel are left white."""
    pixels = confusion.matrix.cpu().numpy().astype(np.float64)
    columns = list(classes)
    if pixels[:, -1].any():
        columns.append("void")
    pixels, total = pixels[:, : len(columns)], pixels.sum(1, keepdims=True)
    share = 100 * np.divide(pixels, total, out=np.full_like(pixels, np.nan), where=total > 0)
    figure = Figure(figsize=(1.5 + 0.46 * len(columns), 1.3 + 0.42 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(share, cmap="viridis", norm=PowerNorm(0.5, 0, 100), aspect="auto")
    for row, column in zip(*np.nonzero(np.nan_to_num(share) >= 0.95), strict=True):
        value = share[row, column]
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="black" if value > 45 else "white"
        )
    axes.set_xticks(range(len(columns)), columns, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    figure.colorbar(shown, ax=axes, label="% of the class's pixels", ticks=[0, 1, 5, 20, 50, 100])
    return figure


def reliability_diagram(results: Mapping[str, CalibrationResult]) -> Figure:
    """Accuracy against confidence, below the line: overconfident; under it how many pixels have which confidence."""
    figure = Figure(figsize=(5, 6), layout="constrained")
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


def boundary_errors(tallies: Mapping[str, BoundaryErrors]) -> Figure:
    """Error rate by distance to the nearest class boundary; one line per domain or model."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    names = _same_bands(tallies)
    for style, (name, tally) in zip(_styles(), tallies.items(), strict=False):
        axes.plot(range(len(names)), 100 * tally.error(), label=name, **style)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="distance to the nearest class boundary", ylabel="wrong pixels, %", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def trimap_curves(tallies: Mapping[str, BoundaryErrors]) -> Figure:
    """mIoU of the pixels within a distance of a boundary, and of all of them."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    _same_bands(tallies)
    radii = next(iter(tallies.values())).radii
    for style, (name, tally) in zip(_styles(), tallies.items(), strict=False):
        axes.plot(range(len(radii) + 1), [100 * found.miou for found in tally.trimap()], label=name, **style)
    axes.set_xticks(range(len(radii) + 1), [*(f"≤ {radius} px" for radius in radii), "all"])
    axes.set(xlabel="pixels within this distance of a boundary", ylabel="mIoU, %", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def class_boundary_errors(tally: BoundaryErrors, classes: Sequence[str] = CLASSES) -> Figure:
    """Error rate by class and distance, in percent; white where a class has no pixel."""
    error = 100 * tally.class_error().T
    figure = Figure(figsize=(2.6 + 0.75 * error.shape[1], 1 + 0.34 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(error, cmap="magma", vmin=0, vmax=100, aspect="auto")
    for row, column in zip(*np.nonzero(~np.isnan(error)), strict=True):
        value = error[row, column]
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="black" if value > 60 else "white"
        )
    axes.set_xticks(range(error.shape[1]), tally.names)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("distance to the nearest class boundary")
    figure.colorbar(shown, ax=axes, label="wrong pixels, %")
    return figure


def ood_curves(curves: Mapping[str, Curves]) -> Figure:
    """Precision over recall, and the ROC curve, of out-of-distribution scores."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
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


def _thinned(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[Any, Any]:
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
