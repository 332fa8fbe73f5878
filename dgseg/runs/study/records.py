"""Finished runs as they lie in their folders: result.json, recipe.yaml, metrics.jsonl."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from dgseg.evaluation import names
from dgseg.evaluation.names import miou, scores_of_result
from dgseg.training.journal import entries
from dgseg.training.storage import Storage, open_storage
from dgseg.training.yaml import dotted

RESULT = "result.json"
VALIDATION = miou(names.VALIDATION)  # mean mIoU on data.validation, after the last step
# Of unknown objects, means over data sets; studies that ask models for them add these to the scores.
DETECTION = ("AUROC", "AP", "FPR95", "sIoU", "PPV", "F1", "mAcc")
LOWER_IS_BETTER = frozenset({"FPR95"})
Curve = tuple[tuple[int, float], ...]  # step and value


@dataclass(frozen=True)
class Record:
    name: str
    where: str  # the folder, or MLflow's id
    seed: int
    fields: Mapping[str, str]  # the recipe's, by dotted name
    scores: Mapping[str, float]  # by name: "fog/miou", "fog/iou/road", "adverse/miou"; fractions
    curves: Mapping[str, Curve] = field(default_factory=dict)  # "loss", VALIDATION
    made: Mapping[str, Any] = field(default_factory=dict)  # commit, hardware, versions, as machine() gives them

    @property
    def commit(self) -> str | None:
        return self.made.get("commit")


COSTS = ("latency", "MACs", "params", "FPS")  # what `dgseg profile` measures: columns of the real-time study's Table 1


def with_costs(records: Sequence[Record], profile: Path) -> list[Record]:
    """With what their models cost as fields, from a file of `dgseg profile --json`. Models go by name and options; a
    run of another one stays as it is, but some run must be of one."""
    said = json.loads(profile.read_text())
    if not isinstance(said, dict) or not {"profile", "results"} <= said.keys():
        raise ValueError(f"{profile} is no file of `dgseg profile --json`")
    if said["profile"]["train"]:
        raise ValueError(f"{profile} holds the times of training steps (--train), and latency is that of inference")
    options = {f"model.options.{name}": str(value) for name, value in said["profile"]["options"].items()}
    classes = str(said["profile"]["num_classes"])
    costs = {}
    for result in said["results"]:
        row = result["rows"][0]  # the model as it is; what stands beside it comes after
        if row["times"] is not None:
            seconds = row["times"]["median"]
            macs, count = row["arithmetic"]["macs"] / 1e9, row["parameters"]["total"] / 1e6
            rate = said["profile"]["batch"] / seconds
            shown = (f"{1e3 * seconds:.2f} ms", f"{macs:.2f} G", f"{count:.2f} M", f"{rate:.2f}")
            costs[result["name"]] = dict(zip(COSTS, shown, strict=True))

    def costs_of(run: Record) -> Mapping[str, str]:
        own = {name: value for name, value in run.fields.items() if name.startswith("model.options.")}
        given = {name: value for name, value in own.items() if value != "none"}  # as if it were not there
        same = given == options and run.fields.get("model.num_classes") == classes
        return costs.get(run.fields.get("model.name", ""), {}) if same else {}

    found = [replace(run, fields={**run.fields, **costs_of(run)}) for run in records]
    if not any(costs_of(run) for run in records):
        raise ValueError(f"{profile} measures {', '.join(costs) or 'nothing'}: no run has that model and options")
    return found


def costs_note(profile: Path) -> str:
    """Under which conditions `with_costs` was measured: no latency means anything without them."""
    said = json.loads(profile.read_text())
    how, where = said["profile"], said["hardware"]
    shape = "x".join(map(str, (how["batch"], 3, *how["size"])))
    return (
        f"Latency and FPS ({profile.name}): inference of {shape}, {how['dtype'].removeprefix('torch.')}, on "
        f"{where.get('gpu') or where['cpu']}, {where['threads']} threads, the median; MACs of one image, as fvcore "
        "counts them."
    )


@dataclass(frozen=True)
class Found:
    records: Sequence[Record]
    left_out: Mapping[str, str]  # which run: why


def from_folders(places: Iterable[str]) -> Found:
    """Each a run's folder, a folder of runs, or a result.json; a path or a URI."""
    records, left_out = [], {}
    for place in places:
        if place.endswith(".json"):
            if not Path(place).is_file():
                raise ValueError(f"{place}: no such file; give result.json files, runs' folders or folders of runs")
            beside = open_storage(Path(place).parent)
            whole = Path(place).name == RESULT and beside.exists("recipe.yaml")
            records.append(of_run(beside) if whole else _result(json.loads(Path(place).read_text()), place))
            continue
        folder = open_storage(place)
        runs = [folder] if _is_run(folder) else [folder.folder(name) for name in folder.names()]
        runs = [run for run in runs if _is_run(run)]
        if not runs:
            raise ValueError(f"{place}: no run lies there; give runs' folders (with recipe.yaml) or folders of runs")
        for run in runs:
            if not run.exists(RESULT):
                left_out[run.url] = "not finished"
                continue
            try:
                records.append(of_run(run))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
                left_out[run.url] = f"damaged, or no run of dgseg's: {type(error).__name__}: {error}".splitlines()[0]
    return Found(records, left_out)


def of_run(folder: Storage) -> Record:
    recipe = yaml.safe_load(folder.read("recipe.yaml"))
    return _result(json.loads(folder.read(RESULT)), folder.url, dotted(recipe), entries(folder))


def _is_run(folder: Storage) -> bool:
    return folder.exists("recipe.yaml") or folder.exists(RESULT)


def _result(
    found: Mapping[str, Any],
    where: str,
    fields: Mapping[str, str] | None = None,
    journal: Sequence[Mapping[str, Any]] = (),
) -> Record:
    curves = {
        "loss": tuple((line["step"], line["losses"]["loss"]) for line in journal if line["kind"] == "step"),
        VALIDATION: tuple(
            (line["step"], line["scores"][VALIDATION])
            for line in journal
            if line["kind"] == "scores" and VALIDATION in line["scores"]
        ),
    }
    last = {VALIDATION: curves[VALIDATION][-1][1]} if curves[VALIDATION] else {}
    return Record(
        name=found["name"],
        where=where,
        seed=int(found["seed"]),
        fields=fields or {"name": found["recipe"], "seed": str(found["seed"]), "schedule.steps": str(found["steps"])},
        scores=finite({**scores_of_result(found), **last}),
        curves={name: curve for name, curve in curves.items() if curve},
        made={name: found[name] for name in ("commit", "uncommitted_changes", "hardware", "versions") if name in found},
    )


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """What has no score (a class that does not occur) is left out."""
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
