"""What MLflow is told of a line of the journal: points, tags, data sets, tables, the run's description."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE

from dgseg.runs.tracking.files import Entry

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# MLflow's pages sort their sections of charts by name, capitals first: curves stand above the dots of final scores.
LOSS, _OTHER = "Loss", "Training"
_PREFIX = {"losses": LOSS, "metrics": _OTHER, "timings": "time"}
_CONTEXT = {"source": "training", "target": "adaptation", "validation": "validation", "test": "test"}


def metrics(entry: Entry) -> dict[str, float]:
    if entry["kind"] in ("scores", "system"):
        values = entry[{"scores": "scores", "system": "values"}[entry["kind"]]]
    elif entry["kind"] == "checkpoint":
        values = {"time/checkpoint": entry["seconds"]}
    elif entry["kind"] == "end":
        values = {f"time/total/{part}": seconds for part, seconds in entry["timings"].items()}
    elif entry["kind"] == "step":
        values = {}
        for field, value in entry.items():
            if isinstance(value, Mapping):
                values |= {_name(_PREFIX.get(field, field), name): each for name, each in value.items()}
            elif field not in ("kind", "time", "step", "max_steps"):
                values[f"{_OTHER}/{field}"] = value
    else:
        values = {}
    return {_safe(name): float(value) for name, value in values.items() if value is not None}


def _name(section: str, name: str) -> str:
    if section == LOSS:
        return f"{LOSS}/{'total' if name == 'loss' else name}"
    return name if "/" in name else f"{section}/{name}"


def _safe(name: str) -> str:
    """MLflow takes letters, digits, _ - . : / and spaces, in names like a path's."""
    cleaned = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)
    return "/".join(part.strip(".") or "_" for part in cleaned.split("/"))[:250]


def tags(start: Entry) -> dict[str, str]:
    """Where a run runs: none of it changes the weights, and a resumed run may run elsewhere."""
    found = {
        "recipe": start["recipe"]["name"],
        **{name: str(start[name]) for name in ("host", "device", "world_size", "folder")},
        "strategy": start["run"]["strategy"],
        **{name: str(version) for name, version in start["versions"].items() if version},
        "mlflow.note.content": note(start),
    }
    if start["commit"]:
        found["mlflow.source.git.commit"] = start["commit"]
        found["git.dirty"] = {True: "yes", False: "no", None: "unknown"}[start["uncommitted_changes"]]
    return found


def datasets(start: Entry) -> list[DatasetInput]:
    return [dataset(role, facts) for role, facts in start["datasets"].items()]


def dataset(role: str, facts: Mapping[str, Any]) -> DatasetInput:
    """role: "source0", "test2", "target"."""
    kind, spec = role.rstrip("0123456789"), str(facts.get("spec", role))
    plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in facts.items()}
    digest = str(facts.get("digest") or hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16])
    return DatasetInput(
        Dataset(
            spec,
            digest.removeprefix("sha256:")[:MAX_DATASET_DIGEST_SIZE],
            "dgseg",
            json.dumps({"uri": spec}),
            profile=json.dumps({"role": role, **plain}),
        ),
        [InputTag("mlflow.data.context", _CONTEXT.get(kind, kind))],
    )


def scores_table(entry: Entry) -> str:
    """A row per domain, the averages below; percent."""
    by_domain = {domain: _of(entry, domain) for domain in entry["domains"]}
    kinds = [name for name in _every(by_domain) if "/" not in name]
    rows = [[domain, *(_percent(values.get(kind)) for kind in kinds)] for domain, values in by_domain.items()]
    rows += [[f"average: {name}", _percent(entry["scores"].get(f"{name}/miou"))] for name in entry["averages"]]
    return _csv(["domain", *(f"{kind} %" for kind in kinds)], rows)


def per_class_table(entry: Entry) -> str:
    """A row per class, a column per domain; percent, empty where the class does not occur."""
    by_domain = {domain: _of(entry, domain) for domain in entry["domains"]}
    classes = [name.removeprefix("iou/") for name in _every(by_domain) if name.startswith("iou/")]
    rows = [[each, *(_percent(values.get(f"iou/{each}")) for values in by_domain.values())] for each in classes]
    return _csv(["class", *by_domain], rows)


def checkpoint(entry: Entry) -> str:
    return json.dumps({name: entry[name] for name in ("step", "path", "score", "seconds")}, indent=1) + "\n"


def note(start: Entry, scores: Entry | None = None) -> str:
    """Markdown, shown above everything else of the run."""
    resumed = f", resumed at step {start['step']}" if start["step"] else ""
    steps = start["recipe"]["schedule.steps"]
    first = f"**{start['recipe']['name']}**, {steps} steps on {start['world_size']} × {start['device']}{resumed}"
    if scores is None:
        return first
    names = [*scores["domains"], *(f"**{name}**" for name in scores["averages"])]
    values = [_percent(scores["scores"].get(f"{name}/miou")) for name in scores["domains"]]
    values += [f"**{_percent(scores['scores'].get(f'{name}/miou'))}**" for name in scores["averages"]]
    table = ["| " + " | ".join(cells) + " |" for cells in (names, ["---:"] * len(names), values)]
    return "\n".join([*table, "", f"mIoU in % after {scores['step']} steps.", "", first])


def _of(entry: Entry, domain: str) -> dict[str, float]:
    """A domain's scores, without the domain in their names."""
    own = f"{domain}/" if entry["final"] else f"validation/{domain}/"
    return {name.removeprefix(own): value for name, value in entry["scores"].items() if name.startswith(own)}


def _every(by_domain: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The names that any domain has, in the order of the first that has it."""
    return list(dict.fromkeys(name for values in by_domain.values() for name in values))


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.2f}"


def _csv(header: list[str], rows: Iterable[list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([*row, *[""] * (len(header) - len(row))] for row in rows)
    return text.getvalue()
