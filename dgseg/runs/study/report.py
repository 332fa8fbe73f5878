"""What a study came to: results.json, results.csv, a plot, and a README to set beside them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgseg.evaluation.names import domain_of
from dgseg.evaluation.protocols import AVERAGES
from dgseg.evaluation.report.table import ABSENT
from dgseg.runs.study import charts, tables
from dgseg.runs.study.comparison import Comparison, of_rows, sentences
from dgseg.runs.study.execute import Run
from dgseg.runs.study.grids import Grid
from dgseg.runs.study.records import DETECTION, Record
from dgseg.training.yaml import flatten

LARGEST_PLOT = 300_000  # bytes: results are committed


def compared(
    grid: Grid,
    runs: Sequence[Run],
    records: Mapping[str, Record],
    notes: Sequence[str] = (),
    confidence: float = 0.95,
    detections: Mapping[str, Mapping[str, Record]] | None = None,
) -> Comparison:
    """records: of the runs that are finished, by name. detections: by label, those that hold in their place."""
    rows = {}
    for row in grid.rows:
        if row.shown:
            own = (detections or {}).get(row.label, records)
            rows[row.label] = [own[run.name] for run in runs if run.label == row.label and run.name in own]
    return of_rows(rows, {row.label: row.against for row in grid.rows if row.against}, notes, confidence)


def write(grid: Grid, found: Comparison, out: Path, command: str) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "results.json": json.dumps(_content(grid, found, command), indent=1, ensure_ascii=False) + "\n",
        "results.csv": tables.as_csv(found),
        "README.md": _readme(grid, found, command),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    plot = out / "plot.png"
    averages = [name for name in found.columns if domain_of(name) in AVERAGES or name in DETECTION]
    shown = averages or list(found.columns)
    figure = charts.lines(found, grid.panels, shown) if grid.panels else charts.bars(found, shown)
    figure.savefig(plot, dpi=110)
    assert plot.stat().st_size <= LARGEST_PLOT, "a few lines on white"
    return [*(out / name for name in files), plot]


def _content(grid: Grid, found: Comparison, command: str) -> dict[str, Any]:
    return {
        "study": grid.name,
        "question": grid.question,
        "command": command,
        "method": found.method,
        "notes": list(found.notes),
        "verdicts": sentences(found),
        "rows": [
            {
                "label": row.label,
                "against": row.against,
                "recipe": {name: value for name, value in flatten(row.recipe).items() if name != "seed"},
                "scores": {column: _numbers(found, row.label, column) for column in found.columns},
            }
            for row in grid.rows
            if row.label in found.groups
        ],
        "runs": [
            {
                "row": label,
                "name": run.name,
                "seed": run.seed,
                "scores": {column: run.scores[column] for column in found.columns if column in run.scores},
                "made": run.made,
            }
            for label, runs in found.groups.items()
            for run in runs
        ],
    }


def _numbers(found: Comparison, label: str, column: str) -> dict[str, Any] | None:
    one, other = found.summary(label, column), found.difference(label, column)
    if one is None:
        return None
    return {**vars(one), "difference": None if other is None else {**vars(other), "verdict": other.verdict}}


def _readme(grid: Grid, found: Comparison, command: str) -> str:
    shown = [*tables.scores_tables(found, 10_000), *tables.differences_tables(found, 10_000)]
    parts = [
        f"## dgseg study {grid.name}",
        grid.question,
        *(f"**{table.title}**\n\n{table.markdown()}" for table in shown),
        "\n".join(f"- {each}" for each in sentences(found)),
        f"![{grid.name}](plot.png)",
        " ".join([found.method, *found.notes]),
        _made(found),
        f"```\n{command}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _made(found: Comparison) -> str:
    """On what, with what, at which commit: every kind of run once."""
    runs = {run.where: run for of_row in found.groups.values() for run in of_row}.values()  # rows may share a run
    steps = ", ".join(dict.fromkeys(run.fields.get("schedule.steps", ABSENT) for run in runs))
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    machines = dict.fromkeys(_made_with(run.made) for run in runs)
    return " ".join([f"{len(runs)} runs, seeds {seeds}, {steps} steps each.", *machines])


def _made_with(made: Mapping[str, Any]) -> str:
    hardware, versions = made.get("hardware", {}), made.get("versions", {})
    device = hardware.get("gpu") or f"{hardware.get('cpu', ABSENT)}, threads: {hardware.get('threads', ABSENT)}"
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version and name != "dgseg")
    changed = " with uncommitted changes" if made.get("uncommitted_changes") else ""
    return f"{device}; {named}; commit {(made.get('commit') or 'unknown')[:12]}{changed}."
