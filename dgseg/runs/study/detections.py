"""How a study's models find unknown objects: each asked once in each way, and remembered beside its run."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from dgseg.data import from_spec
from dgseg.evaluation.detection import detect, means
from dgseg.evaluation.scorers import scorers_of
from dgseg.models.trained import trained
from dgseg.runs.study.execute import Run, local_folder
from dgseg.runs.study.grids import Grid
from dgseg.runs.study.processes import asked, processes
from dgseg.runs.study.records import DETECTION, Record
from dgseg.training.saver import WEIGHTS
from dgseg.training.world import join


def detections(
    grid: Grid,
    runs: Sequence[Run],
    done: Mapping[str, Record],
    storage: str,
    *,
    workers: int = 1,
    device: Any = "auto",
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Record]]:
    """label -> name of a run -> its record with the scores of unknown objects; of those rows that have a scorer."""
    rows = {row.label: row.scorer for row in grid.rows}
    told = [(run, scorer) for run in runs if (scorer := rows[run.label]) is not None and run.name in done]
    asks: dict[str, tuple[Run, list[str]]] = {}  # by name of the run, which rows may share
    for run, scorer in told:
        scorers = asks.setdefault(run.name, (run, []))[1]
        if scorer not in scorers and not _kept(run, scorer, storage).exists():
            scorers.append(scorer)
    for answer in _answers([(run, scorers) for run, scorers in asks.values() if scorers], storage, workers, device):
        say(answer)
    found: dict[str, dict[str, Record]] = {}
    for run, scorer in told:
        scores: dict[str, float] = json.loads(_kept(run, scorer, storage).read_text())
        record = done[run.name]
        found.setdefault(run.label, {})[run.name] = replace(record, scores={**record.scores, **scores})
    return found


def _answers(asks: Sequence[tuple[Run, list[str]]], storage: str, workers: int, device: Any) -> Iterator[str]:
    if workers == 1 or not asks:
        for run, scorers in asks:
            yield from _ask(run, scorers, storage, device)
        return
    with processes(workers, _interrupt) as pool:
        try:
            given = [pool.submit(asked, _ask, run, scorers, storage, device) for run, scorers in asks]
            for answers in as_completed(given):
                yield from answers.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process that asked a model was killed, as one is where memory runs out; the same command goes on"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _kept(run: Run, scorer: str, storage: str) -> Path:
    return local_folder(storage) / run.name / f"detection-{scorer}.json"


def _ask(run: Run, scorers: Sequence[str], storage: str, device: Any) -> list[str]:
    """All of them of the same images."""
    model = trained(local_folder(storage) / run.name / WEIGHTS).to(join(device).device)
    datasets = [from_spec(spec) for spec in run.recipe.data.test]
    # The known world that it was trained on, without pairs.
    training = from_spec(run.recipe.data.sources[0]) if "mahalanobis" in scorers else None
    found, _ = detect(model, datasets, scorers_of(model, scorers, training))
    answers = []
    for scorer in scorers:
        scores = means([each for each in found if each.scorer == scorer])
        named = {name: scores[name.lower()] for name in DETECTION}
        _kept(run, scorer, storage).write_text(
            json.dumps({name: value for name, value in named.items() if value == value}) + "\n"
        )
        answers.append(f"{run.label}, seed {run.recipe.seed}: asked by {scorer}, AP {100 * named['AP']:.2f}")
    return answers
