"""What a finished run came to: a table of its domains, beside the committed figures of its baseline."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgseg.evaluation.names import miou, scores_of_result
from dgseg.evaluation.report.table import ABSENT, Table, percent, points
from dgseg.recipes import named
from dgseg.training import RunResult
from dgseg.training.listener import ScoreReport
from dgseg.training.recipe import Recipe

BASELINES = Path(__file__).resolve().parents[2] / "recipes" / "baselines"  # result.json of finished runs
BASELINE_OF = {"flexseg-streets": "erm-streets"}


@dataclass(frozen=True)
class Baseline:
    recipe: str
    seeds: tuple[int, ...]
    scores: Mapping[str, float]  # "fog/miou" …: means over the seeds
    made_with: str


def baseline_of(recipe: Recipe) -> Baseline | None:
    """None where no figures are committed, or only of other data."""
    name = BASELINE_OF.get(recipe.name)
    if name is None:
        return None
    own, data = named(name).data, recipe.data
    if (own.sources, own.test, own.protocol) != (data.sources, data.test, data.protocol):
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


def show(result: RunResult, recipe: Recipe) -> None:
    """Percent; the difference is one run's, without an interval: `dgseg compare` has those."""
    if result.scores is not None:
        _show_scores(result, result.scores, recipe)
        print(f"pictures  {result.folder}/panel.png")
    if result.weights is not None:
        print(f"weights   {result.weights}")


def _show_scores(result: RunResult, report: ScoreReport, recipe: Recipe) -> None:
    baseline = baseline_of(recipe)
    domains = {domain: scores["miou"] for domain, scores in report.scores.items()}
    means = {f"mean, {name}": (name, value) for name, value in report.averages.items()}
    rows = []
    for name, (domain, value) in ({domain: (domain, value) for domain, value in domains.items()} | means).items():
        cells = [name, percent(value, 1)]
        if baseline:
            other = baseline.scores.get(miou(domain))
            cells += [ABSENT] * 2 if other is None else [percent(other, 1), points(value - other, 1)]
        rows.append(tuple(cells))
    head = ("domain", Path(str(result.folder)).name, *((baseline.recipe, "difference") if baseline else ()))
    Table(f"mIoU in % after {result.step} steps", head, tuple(rows), frozenset({len(domains)} if means else ())).show()
    print()
    if baseline:
        seeds = ", ".join(map(str, baseline.seeds))
        print(
            f"{baseline.recipe}: committed figures, mean over seeds {seeds} ({baseline.made_with}). One run of one "
            "seed says little about a difference: dgseg study ablation has several, with intervals.\n"
        )
