"""What a finished run came to: a table of its domains, beside the committed figures of its baseline."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dgseg.evaluation.names import miou, scores_of_result
from dgseg.training import RunResult

BASELINES = Path(__file__).resolve().parents[2] / "recipes" / "baselines"  # result.json of finished runs
BASELINE_OF = {"flexseg-streets": "erm-streets"}


@dataclass(frozen=True)
class Baseline:
    recipe: str
    seeds: tuple[int, ...]
    scores: Mapping[str, float]  # "fog/miou" …: means over the seeds
    made_with: str


def baseline_of(recipe: str) -> Baseline | None:
    """None where no figures are committed."""
    name = BASELINE_OF.get(recipe)
    if name is None:
        return None
    runs: list[dict[str, Any]] = [json.loads(file.read_text()) for file in sorted(BASELINES.glob(f"{name}-seed*.json"))]
    if not runs:
        return None

    first, scores = runs[0], [scores_of_result(run) for run in runs]
    return Baseline(
        recipe=name,
        seeds=tuple(run["seed"] for run in runs),
        scores={name: sum(each[name] for each in scores) / len(scores) for name in scores[0]},
        made_with=f"commit {first['commit'][:12]}, {first['hardware']['cpu']}, torch {first['versions']['torch']}",
    )


def show(result: RunResult, recipe: str, console: Console) -> None:
    """Percent; the difference is one run's, without an interval: `dgseg compare` has those."""
    if result.weights is None:
        return
    if result.scores is None:  # the recipe has no data.test
        console.print(f"weights   {result.weights}", soft_wrap=True)
        return
    baseline = baseline_of(recipe)
    table = Table(title=f"mIoU in % after {result.step} steps", title_justify="left")
    table.add_column("domain")
    table.add_column(recipe, justify="right")
    if baseline:
        table.add_column(baseline.recipe, justify="right")
        table.add_column("difference", justify="right")

    def row(name: str, domain: str, value: float, end: bool = False) -> None:
        other = baseline.scores.get(miou(domain)) if baseline else None
        cells = [name, f"{100 * value:.1f}"]
        if baseline:
            cells += ["", ""] if other is None else [f"{100 * other:.1f}", f"{100 * (value - other):+.1f}"]
        table.add_row(*cells, end_section=end)

    domains = list(result.scores.scores)
    for domain in domains:
        row(domain, domain, result.scores.scores[domain]["miou"], end=domain == domains[-1])
    for name, value in result.scores.averages.items():
        row(f"mean, {name}", name, value)
    console.print(table)
    if baseline:
        seeds = ", ".join(map(str, baseline.seeds))
        console.print(
            f"{baseline.recipe}: committed figures, mean over seeds {seeds} ({baseline.made_with}). One run of one "
            "seed says little about a difference: dgseg study ablation has several, with intervals.",
            soft_wrap=True,
        )
    console.print(f"pictures  {result.folder}/panel.png\nweights   {result.weights}", soft_wrap=True)
