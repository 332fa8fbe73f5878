"""How a study's models find unknown objects: each asked once in each way, and remembered beside its run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dgseg.data import from_spec
from dgseg.evaluation.detection import detect, means
from dgseg.evaluation.scorers import scorers_of
from dgseg.models.trained import trained
from dgseg.runs import executor
from dgseg.runs.executor import Job, Outcome
from dgseg.runs.study.execute import Run, local_folder
from dgseg.runs.study.grids import Grid
from dgseg.runs.study.records import DETECTION, Record
from dgseg.training.saver import WEIGHTS
from dgseg.training.world import join


def detections(
    grid: Grid,
    runs: Sequence[Run],
    done: Mapping[str, Record],
    storage: str,
    *,
    jobs: int = 1,
    device: Any = "auto",
    address: str | None = None,
    say: Callable[[str], None] = print,
) -> tuple[dict[str, dict[str, Record]], Outcome]:
    """label -> name of a run -> its record with the scores of unknown objects; of those rows that have a scorer."""
    rows = {row.label: row.scorer for row in grid.rows}
    scored = [(run, scorer) for run in runs if (scorer := rows[run.label]) is not None and run.name in done]
    questions: dict[str, tuple[Run, list[str]]] = {}  # by name of the run, which rows may share
    for run, scorer in scored:
        scorers = questions.setdefault(run.name, (run, []))[1]
        if scorer not in scorers and not _file(run, scorer, storage).exists():
            scorers.append(scorer)
    outcome = executor.execute(
        [
            Job(run.name, f"{run.label}, seed {run.recipe.seed}", partial(_ask, run, scorers, storage, device))
            for run, scorers in questions.values()
            if scorers
        ],
        jobs,
        device=device,
        address=address,
        say=say,
    )
    records: dict[str, dict[str, Record]] = {}
    for run, scorer in scored:
        file = _file(run, scorer, storage)
        if file.exists():
            record = done[run.name]
            scores = {**record.scores, **json.loads(file.read_text())}
            records.setdefault(run.label, {})[run.name] = replace(record, scores=scores)
    return records, outcome


def _file(run: Run, scorer: str, storage: str) -> Path:
    return local_folder(storage) / run.name / f"detection-{scorer}.json"


def _ask(run: Run, scorers: Sequence[str], storage: str, device: Any) -> str:
    """One pass over the images for all scorers."""
    model = trained(local_folder(storage) / run.name / WEIGHTS).to(join(device).device)
    datasets = [from_spec(spec) for spec in run.recipe.data.test]
    # The known world that it was trained on, without pairs.
    training = from_spec(run.recipe.data.sources[0]) if "mahalanobis" in scorers else None
    found, _ = detect(model, datasets, scorers_of(model, scorers, training))
    answers = []
    for scorer in scorers:
        scores = means([each for each in found if each.scorer == scorer])
        named = {name: scores[name.lower()] for name in DETECTION}
        _file(run, scorer, storage).write_text(
            json.dumps({name: value for name, value in named.items() if value == value}) + "\n"
        )
        answers.append(f"AP by {scorer} {100 * named['AP']:.2f}")
    return ", ".join(answers)
