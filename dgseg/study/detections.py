"""How a study's models find unknown objects: each asked once in each way, and remembered beside its run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

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
    found: dict[str, dict[str, Record]] = {}
    for row in grid.rows:
        for run in runs:
            if run.label == row.label and row.scorer is not None and run.name in done:
                scores = _asked(run, row.scorer, storage, device, say)
                record = done[run.name]
                found.setdefault(row.label, {})[run.name] = replace(record, averages={**record.averages, **scores})
    return found


def _asked(run: Run, scorer: str, storage: str, device: torch.device, say: Callable[[str], None]) -> dict[str, float]:
    folder = local_folder(storage) / run.name
    kept = folder / f"detection-{scorer}.json"
    if not kept.exists():
        model = trained(folder / WEIGHTS).to(device)
        datasets = {spec: from_spec(spec) for spec in run.recipe.data.test}
        # The known world that it was trained on, without pairs.
        training = from_spec(run.recipe.data.sources[0]) if scorer == "mahalanobis" else None
        rows = detect(model, datasets, scorers_of(model, [scorer], training))
        scores = means(rows)
        named = {name: scores[name.lower()] for name in DETECTION}
        kept.write_text(json.dumps({name: value for name, value in named.items() if value == value}) + "\n")
        say(f"{run.label}, seed {run.recipe.seed}: asked by {scorer}, AP {100 * named['AP']:.2f}")
    values: dict[str, float] = json.loads(kept.read_text())
    return values
