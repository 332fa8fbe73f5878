"""An evaluation as tables: for people, in percent, and as CSV, in fractions."""

import math
from collections.abc import Sequence

from dgseg.evaluation.report.table import ABSENT, Cell, Table, csv_text, percent
from dgseg.evaluation.result import DomainResult, Evaluation, class_names


def tables(found: Evaluation) -> list[Table]:
    extras = (boundary_table(found), calibration_table(found), unknown_table(found))
    return [scores_table(found), *_classes(found).fold(), *(extra for extra in extras if extra.rows)]


def scores_table(found: Evaluation) -> Table:
    skipped = any(result.corrupt for result in found.domains.values())
    rows = []
    for name, result in found.domains.items():
        scores = result.scores
        row = [_indented(name), f"{result.images:,}"] + ([str(result.corrupt)] if skipped else [])
        rows.append((*row, percent(scores.miou), percent(scores.macc), percent(scores.pixel_accuracy)))
    averages = found.averages()
    empty = [""] * (2 if skipped else 1)
    means = [(name, *empty, percent(value), "", "") for name, value in averages.items()]
    head = ("domain", "images", *(["skipped"] if skipped else []), "mIoU", "mAcc", "pixels right")
    return Table("Scores, %", head, (*rows, *means), frozenset({len(rows)} if means else ()))


def _indented(domain: str) -> str:
    dataset, _, condition = domain.partition("/")
    return f"  {condition}" if condition else dataset


def _classes(found: Evaluation) -> Table:
    names = list(found.domains)
    chosen = found.domains[names[0]].scores.classes
    called = class_names(found.domains[names[0]].confusion.num_classes)
    rows = [
        (called[c], *(percent(float(found.domains[name].scores.iou[place]), 1) for name in names))
        for place, c in enumerate(chosen)
    ]
    return Table("IoU by class, %", ("class", *names), tuple(rows))


def boundary_table(found: Evaluation) -> Table:
    rows: list[tuple[str, ...]] = []
    head: tuple[str, ...] = ("domain",)
    for name, result in found.domains.items():
        if result.boundary is not None and result.boundary_iou is not None and result.scores.pixels:
            head = ("domain", *result.boundary.names, "boundary IoU")
            errors = [percent(float(error), 1) for error in result.boundary.error()]
            rows.append((name, *errors, percent(result.boundary_iou.mean_iou(result.classes), 1)))
    return Table("Wrong pixels by distance to the nearest class boundary, %", head, tuple(rows))


def calibration_table(found: Evaluation) -> Table:
    rows = []
    for name, result in found.domains.items():
        if result.calibration is not None and result.scores.pixels:
            one = result.calibration.result()
            nats = (one.entropy_right, one.entropy_wrong)
            entropies = [ABSENT if math.isnan(value) else f"{value:.3f}" for value in nats]
            rows.append((name, percent(one.ece), percent(one.largest_gap, 1), *entropies))
    head = ("domain", "ECE, %", "largest gap, %", "entropy if right", "if wrong")
    return Table("Calibration, entropy in nats", head, tuple(rows))


def unknown_table(found: Evaluation) -> Table:
    rows = []
    components = any(result.components for result in found.domains.values())
    for name, result in found.domains.items():
        for kind, tally in result.ood.items():
            one = tally.result()
            values = [percent(value) for value in (one.auroc, one.ap, one.fpr95)]
            # How far rounding scores to fp16 can have moved a result, at most.
            slack = max(high - low for low, high in one.interval.values())
            values.append("0" if slack == 0 else f"{100 * slack:.2g}")
            if components:
                parts = result.components[kind].result() if kind in result.components else None
                values += [percent(v) for v in (parts.siou, parts.ppv, parts.f1)] if parts else [ABSENT] * 3
            rows.append((f"{name}: {kind}", *values))
    head = ("domain: score", "AUROC", "AP", "FPR@95", "± by fp16", *(("sIoU", "PPV", "F1") if components else ()))
    return Table("Out-of-distribution pixels and components, %", head, tuple(rows))


def as_csv(found: Evaluation) -> str:
    """A row per domain and per average."""
    names = class_names(next(iter(found.domains.values())).confusion.num_classes)
    head = ["domain", "protocol", "images", "skipped", "pixels", "miou", "macc", "pixel_accuracy"]
    rows: list[Sequence[Cell]] = [
        (domain, found.protocol.name, *_csv_row(result, len(names))) for domain, result in found.domains.items()
    ]
    rows += [(name, found.protocol.name, "", "", "", value) for name, value in found.averages().items()]
    return csv_text([*head, *(f"iou {name}" for name in names)], rows)


def _csv_row(result: DomainResult, num_classes: int) -> list[Cell]:
    scores = result.scores
    iou = dict(zip(scores.classes, scores.iou.tolist(), strict=True))
    counts = (result.images, result.corrupt, scores.pixels)
    return [*counts, scores.miou, scores.macc, scores.pixel_accuracy, *(iou.get(c) for c in range(num_classes))]
