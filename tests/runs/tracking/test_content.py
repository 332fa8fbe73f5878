"""What MLflow is told of a journal's lines: parameters, tags, tables, names."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgseg.machine import machine
from dgseg.runs.tracking import content, mlflow
from dgseg.runs.tracking.listener import MlflowConfig
from dgseg.training.journal import Journal, entries
from dgseg.training.storage import open_storage
from tests.runs.tracking import fake_training


def journalled(folder: Path) -> list[dict[str, Any]]:
    """A start, a step, scores on validation and on test, a checkpoint: as they are read back."""
    journal = Journal()
    journal.on_start(fake_training.start(folder))
    journal.on_step(fake_training.step_report(10))
    journal.on_scores(fake_training.scores(100, final=False))
    journal.on_checkpoint(fake_training.checkpoint(100))
    journal.on_scores(fake_training.scores(200, final=True))
    return entries(open_storage(folder))


def test_every_field_is_a_parameter_and_says_which_configuration_it_holds(tmp_path: Path):
    journal = Journal()
    journal.on_start(replace(fake_training.start(tmp_path), recipe=fake_training.recipe(width=1.5)))
    found = entries(open_storage(tmp_path))[0]["recipe"]
    assert found["name"] == "flexseg_streets"
    assert found["schedule.steps"] == "200"
    assert found["data.sources"] == "streets=generated@train, streets=game@train"
    assert found["data.augment.class"] == "Streets"
    assert found["optimizer.kind"] == "adamw"
    assert found["optimizer.betas"] == "0.9, 0.999"
    assert found["objective.ube.kind"] == "boundary_emphasis"
    assert not any(name.startswith("objective.gap") for name in found), "which this recipe does without"
    assert found["objective.ube.alpha"] == "3.0"
    assert found["model.options.width"] == "1.5"
    assert all(isinstance(value, str) and value for value in found.values())


def test_the_commit_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DGSEG_COMMIT", "0123abc")
    assert machine()["commit"] == "0123abc"
    assert content.tags(journalled(tmp_path)[0])["mlflow.source.git.commit"] == "0123abc"


def test_curves_stand_above_the_dots_of_final_scores(tmp_path: Path):
    """MLflow's pages sort sections by name: what stands before the last slash."""
    start, step, validation, checkpoint, test = journalled(tmp_path)
    assert content.metrics(start) == {}
    curves = content.metrics(step)
    assert {"Loss/total", "Loss/ce", "Training/lr", "Training/images_per_second", "sampler/by_loss"} <= curves.keys()
    assert curves["Loss/total"] == step["losses"]["loss"]
    timed = content.metrics(step | {"timings": {"data": 0.5}, "memory": 7, "unknown": None})
    assert timed["time/data"] == 0.5
    assert timed["Training/memory"] == 7.0
    assert {"validation/miou", "validation/dusk/miou"} <= content.metrics(validation).keys()
    dots = content.metrics(test) | content.metrics(checkpoint)
    assert {"fog/miou", "fog/iou/road", "adverse/miou", "time/checkpoint"} <= dots.keys()
    assert max(name for name in curves if name.startswith("Loss/")) < min(dots)


def test_tables_have_a_row_per_domain_and_per_class(tmp_path: Path):
    *_, validation, _, test = journalled(tmp_path)
    scores = list(csv.reader(io.StringIO(content.scores_table(test))))
    assert scores[0] == ["domain", "miou %", "macc %", "pixel_accuracy %"]
    assert [row[0] for row in scores[1:8]] == list(fake_training.DOMAINS)
    assert scores[8] == ["average: adverse", "41.00", "", ""]
    classes = list(csv.reader(io.StringIO(content.per_class_table(test))))
    assert classes[0] == ["class", *fake_training.DOMAINS]
    assert len(classes) == 20
    assert classes[1][4] == f"{100 * test['scores']['fog/iou/road']:.2f}"
    scores = list(csv.reader(io.StringIO(content.scores_table(validation))))
    assert [row[:2] for row in scores[1:]] == [
        ["dusk", f"{100 * validation['scores']['validation/dusk/miou']:.2f}"],
        ["average: validation", "50.00"],
    ]


def test_a_dataset_without_a_digest_gets_one_of_what_is_known():
    def digest(facts: dict[str, Any]) -> str:
        found = content.dataset("test1", facts)
        assert found.tags[0].value == "test"
        return str(found.dataset.digest)

    first = digest({"spec": "streets=fog@test", "samples": 200})
    assert first == digest({"samples": 200, "spec": "streets=fog@test"})
    assert first != digest({"spec": "streets=fog@test", "samples": 100})


def test_uris_mean_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert mlflow.absolute("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert mlflow.absolute("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
    for served in ("https://mlflow.example", "databricks", "databricks://profile"):
        assert mlflow.absolute(served) == served
    with pytest.raises(ValueError, match="sqlite:///"):
        mlflow.absolute("mlruns")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://elsewhere.example")
    assert mlflow.absolute() == "https://elsewhere.example"
    assert mlflow.database_of("https://mlflow.example") is None
    assert mlflow.without_password("https://me:secret@mlflow.example:5000/a") == "https://me:***@mlflow.example:5000/a"


def test_the_source_is_the_command_without_its_secrets(monkeypatch: pytest.MonkeyPatch):
    words = ["train", "flexseg-streets", "--storage", "s3://KEY:SE/CRET@bucket/runs?token=HIDDEN", "--name", "x"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/dgseg/__main__.py", *words])
    source = MlflowConfig("sqlite:///mlflow.db").resolved().source
    assert source["mlflow.source.name"] == "dgseg train flexseg-streets"
    assert source["command"].startswith("dgseg train flexseg-streets --storage ")
    assert source["command"].endswith(" --name x")
    assert "CRET" not in source["command"]
    assert "HIDDEN" not in source["command"]
    monkeypatch.setattr(sys, "argv", ["default_worker.py"])
    config = MlflowConfig("sqlite:///mlflow.db", source=source).resolved()
    assert config.source == source, "a worker knows only the cluster's command"


def test_a_record_holds_no_password(tmp_path: Path):
    start = fake_training.start(tmp_path)
    secret = "s3://KEY:SECRET@bucket/runs?endpoint_override=x"
    journal = Journal()
    journal.on_start(replace(start, run=replace(start.run, storage=secret)))
    assert "SECRET" not in json.dumps(entries(open_storage(tmp_path)))
