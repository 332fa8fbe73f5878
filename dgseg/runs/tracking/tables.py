"""Reports as people read them in MLflow: CSV tables, JSON, the run's description."""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from dgseg.training.listener import CheckpointReport, RunStart, ScoreReport

_CONTEXT = {"source": "training", "target": "adaptation", "validation": "validation", "test": "test"}


def dataset(role: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """As MLflow's dataset inputs take it. role: "source0", "test2", "target"."""
    kind = role.rstrip("0123456789")
    plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in facts.items()}
    digest = str(facts.get("digest") or hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16])
    return {
        "name": str(facts.get("spec", role)),
        "digest": digest.removeprefix("sha256:"),
        "source": {"uri": str(facts.get("spec", role))},
        "profile": {"role": role, **plain},
        "context": _CONTEXT.get(kind, kind),
    }


def scores(report: ScoreReport) -> str:
    """A row per domain, the averages below; percent."""
    kinds = [name for name in _columns(report) if "/" not in name]
    rows = [[domain, *(_percent(values.get(kind)) for kind in kinds)] for domain, values in report.scores.items()]
    rows += [[f"average: {name}", _percent(value)] for name, value in report.averages.items()]
    return _csv(["domain", *(f"{kind} %" for kind in kinds)], rows)


def per_class_iou(report: ScoreReport) -> str:
    """A row per class, a column per domain; percent, empty where the class does not occur."""
    classes = [name.removeprefix("iou/") for name in _columns(report) if name.startswith("iou/")]
    rows = [[each, *(_percent(values.get(f"iou/{each}")) for values in report.scores.values())] for each in classes]
    return _csv(["class", *report.scores], rows)


def checkpoint(report: CheckpointReport) -> str:
    return json.dumps(dataclasses.asdict(report), indent=1) + "\n"


def note_at_start(start: RunStart) -> str:
    resumed = f", continued at step {start.step}" if start.step else ""
    return (
        f"**{start.recipe.name}**, {start.recipe.schedule.steps} steps on {start.world_size} × {start.device}{resumed}"
    )


def note_with_scores(start: RunStart, report: ScoreReport) -> str:
    """Markdown, shown above everything else of the run."""
    names = [*report.scores, *(f"**{name}**" for name in report.averages)]
    values = [_percent(each.get("miou")) for each in report.scores.values()]
    values += [f"**{_percent(value)}**" for value in report.averages.values()]
    table = ["| " + " | ".join(cells) + " |" for cells in (names, ["---:"] * len(names), values)]
    return "\n".join([*table, "", f"mIoU in % after {report.step} steps.", "", note_at_start(start)])


def _columns(report: ScoreReport) -> list[str]:
    """Every score that any domain has, in the order of the first that has it."""
    return list(dict.fromkeys(name for values in report.scores.values() for name in values))


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.2f}"


def _csv(header: list[str], rows: Iterable[list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([*row, *[""] * (len(header) - len(row))] for row in rows)
    return text.getvalue()
