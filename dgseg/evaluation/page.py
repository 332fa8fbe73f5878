"""An evaluation as one page that needs nothing but itself: tables, plots, pictures, and how the scores were made."""

from collections.abc import Mapping, Sequence
from typing import Any

from dgseg.data.labels import CLASSES, COLOURS
from dgseg.evaluation import charts
from dgseg.evaluation.pictures import Example, legend_entries, views
from dgseg.evaluation.report.page import data_uri, render
from dgseg.evaluation.report.table import finite
from dgseg.evaluation.result import DomainResult, Evaluation, class_names
from dgseg.evaluation.tables import boundary_table, calibration_table, scores_table, unknown_table


def page(title: str, found: Evaluation, facts: Mapping[str, Any], examples: Mapping[str, Sequence[Example]]) -> str:
    """title: what the model is called. facts: what was scored, by name ("weights", "model", "data" …)."""
    subtitle = [facts.get("model"), f"protocol {found.protocol.name}", f"{found.images:,} images"]
    subtitle.append(f"{found.images_per_second:,.1f} images/s")
    return render(
        "evaluation.html",
        title=title,
        subtitle=" · ".join(str(part) for part in subtitle if part),
        corrupt=found.corrupt,
        scores=scores_table(found),
        averages=[(f"{100 * value:.2f}", name) for name, value in found.averages().items()],
        domains=list(found.domains),
        classes=_classes(found),
        boundaries=_boundaries(found),
        confusion={
            name: data_uri(charts.confusion_heat_map(result.confusion, class_names(result.confusion.num_classes)))
            for name, result in found.domains.items()
            if result.scores.pixels
        },
        calibration=_calibration(found),
        unknown=_unknown(found),
        pictures=pictures(examples, "Chosen by rank in mIoU, the worst first."),
        facts=[(name, ", ".join(value) if isinstance(value, list) else value) for name, value in facts.items()],
        method=sentences(found.describe()),
    )


def sentences(wrapped: str) -> list[str]:
    """Of a text that is wrapped for terminals: an indented line continues the one above."""
    return wrapped.replace("\n  ", " ").split("\n")


def pictures(examples: Mapping[str, Sequence[Example]], rule: str) -> dict[str, Any]:
    """What the template's `pictures` takes; rule: how they were chosen."""
    shown = {
        domain: [
            (
                example.caption,
                {title: data_uri(view, smooth) for title, (view, smooth) in views(example).items()},
            )
            for example in some
        ]
        for domain, some in examples.items()
        if some
    }
    every = [example for some in examples.values() for example in some]
    return {"rule": rule, "legend": legend_entries(every), "examples": shown}


def _classes(found: Evaluation) -> list[tuple[str, tuple[int, ...] | None, list[float | None]]]:
    """Name, colour where it has one, and IoU per domain."""
    first = next(iter(found.domains.values()))
    names = class_names(first.confusion.num_classes)
    return [
        (
            names[c],
            tuple(COLOURS[c].tolist()) if names == CLASSES else None,
            [finite(float(result.scores.iou[row])) for result in found.domains.values()],
        )
        for row, c in enumerate(first.scores.classes)
    ]


def _boundaries(found: Evaluation) -> dict[str, Any] | None:
    parts = [(name, result) for name, result in _parts(found) if result.scores.pixels]
    counted = {name: result.boundary for name, result in parts if result.boundary is not None}
    if not counted:
        return None
    return {
        "errors": data_uri(charts.boundary_errors(counted)),
        "trimap": data_uri(charts.trimap_curves(counted, parts[0][1].classes)),
        "table": boundary_table(found),
        "classes": {
            name: data_uri(charts.class_boundary_errors(tally, class_names(tally.num_classes)))
            for name, tally in counted.items()
        },
    }


def _calibration(found: Evaluation) -> dict[str, Any] | None:
    parts = [(name, result) for name, result in _parts(found) if result.scores.pixels]
    counted = {name: result.calibration.result() for name, result in parts if result.calibration is not None}
    if not counted:
        return None
    return {"diagram": data_uri(charts.reliability_diagram(counted)), "table": calibration_table(found)}


def _unknown(found: Evaluation) -> dict[str, Any] | None:
    counted = {name: result.ood for name, result in _parts(found) if result.ood}
    if not counted:
        return None
    curves = {
        name: data_uri(charts.ood_curves({scorer: tally.curves() for scorer, tally in ood.items()}))
        for name, ood in counted.items()
    }
    return {"table": unknown_table(found), "curves": curves}


def _parts(found: Evaluation) -> list[tuple[str, DomainResult]]:
    """Without the sums over conditions, which lines of a plot would only repeat."""
    sums = {name.partition("/")[0] for name in found.domains if "/" in name}
    return [(name, result) for name, result in found.domains.items() if name not in sums]
