"""How a study's models find unknown objects: each asked once in each way, and remembered beside its run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dgseg.data import from_spec
from dgseg.evaluation.detection import detect, means, scorers_of
from dgseg.models.trained import trained
from dgseg.study.execute import Run, local_folder
from dgseg.study.grids import Grid
from dgseg.study.records import DETECTION, Record
from dgseg.training.train import WEIGHTS


def detections(
    grid: Grid,
    runs: Sequence[Run],
    done: Mapping[str, Record],
    storage: str,
    device: torch.device,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Record]]:
    """label -> name of a run -> its record with the scores of unknown objects; of those rows that have a scorer."""
    asked: dict[str, list[str]] = {}  # name of a run -> scorers
    rows = {row.label: row.scorer for row in grid.rows}
    told = [(run, scorer) for run in runs if (scorer := rows[run.label]) is not None and run.name in done]
    for run, scorer in told:
        asked.setdefault(run.name, []).append(scorer)
    found: dict[str, dict[str, Record]] = {}
    for run, scorer in told:
        _ask(run, asked[run.name], storage, device, say)
        scores: dict[str, float] = json.loads(_kept(run, scorer, storage).read_text())
        record = done[run.name]
        found.setdefault(run.label, {})[run.name] = replace(record, averages={**record.averages, **scores})
    return found


def _kept(run: Run, scorer: str, storage: str) -> Path:
    return local_folder(storage) / run.name / f"detection-{scorer}.json"


def _ask(run: Run, scorers: Sequence[str], storage: str, device: torch.device, say: Callable[[str], None]) -> None:
    """Those that have not been asked, all of them of the same images."""
    left = [scorer for scorer in scorers if not _kept(run, scorer, storage).exists()]
    if not left:
        return
    model = trained(local_folder(storage) / run.name / WEIGHTS).to(device)
    datasets = {spec: from_spec(spec) for spec in run.recipe.data.test}
    # The known world that it was trained on, without pairs.
    training = from_spec(run.recipe.data.sources[0]) if "mahalanobis" in left else None
    found = detect(model, datasets, scorers_of(model, left, training))
    for scorer in left:
        scores = means([each for each in found if each.scorer == scorer])
        named = {name: scores[name.lower()] for name in DETECTION}
        _kept(run, scorer, storage).write_text(
            json.dumps({name: value for name, value in named.items() if value == value}) + "\n"
        )
        say(f"{run.label}, seed {run.recipe.seed}: asked by {scorer}, AP {100 * named['AP']:.2f}")
