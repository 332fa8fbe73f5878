"""Parameters, tags and tables as they stand in the record."""

import csv
import io
import json
from pathlib import Path

import pytest
from pyarrow import fs

from dgseg.runs.tracking import facts, place, tables
from dgseg.training.remote_storage import ArrowStorage
from tests.runs.tracking import fake_training


def test_every_field_is_a_parameter_and_says_which_configuration_it_holds():
    found = facts.parameters(fake_training.recipe(width=1.5))
    assert found["name"] == "flexseg_streets"
    assert found["schedule.steps"] == "200"
    assert found["data.sources"] == "streets=generated@train, streets=game@train"
    assert found["data.augment.class"] == "Streets"
    assert found["optimizer.kind"] == "adamw"
    assert found["optimizer.betas"] == "0.9, 0.999"
    assert found["objective.gap"] == "none"
    assert found["objective.ube.alpha"] == "3.0"
    assert found["model.options.width"] == "1.5"
    assert all(isinstance(value, str) and value for value in found.values())


def test_the_commit_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DGSEG_COMMIT", "0123abc")
    assert facts.tags(fake_training.start(tmp_path))["mlflow.source.git.commit"] == "0123abc"


def test_tables_have_a_row_per_domain_and_per_class():
    report = fake_training.scores(200, final=True)
    scores = list(csv.reader(io.StringIO(tables.scores(report))))
    assert scores[0] == ["domain", "miou %", "macc %", "pixel_accuracy %"]
    assert [row[0] for row in scores[1:8]] == list(fake_training.DOMAINS)
    assert scores[8] == ["average: adverse", "41.00", "", ""]
    classes = list(csv.reader(io.StringIO(tables.per_class_iou(report))))
    assert classes[0] == ["class", *fake_training.DOMAINS]
    assert len(classes) == 20
    assert classes[1][4] == f"{100 * report.scores['fog']['iou/road']:.2f}"


def test_a_dataset_without_a_digest_gets_one_of_what_is_known():
    first = tables.dataset("test1", {"spec": "streets=fog@test", "samples": 200})
    assert first["context"] == "test"
    assert first == tables.dataset("test1", {"samples": 200, "spec": "streets=fog@test"})
    assert first["digest"] != tables.dataset("test1", {"spec": "streets=fog@test", "samples": 100})["digest"]


def test_uris_mean_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert place.absolute("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert place.absolute("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
    for served in ("https://mlflow.example", "databricks", "databricks://profile"):
        assert place.absolute(served) == served
    with pytest.raises(ValueError, match="sqlite:///"):
        place.absolute("mlruns")
    assert place.artifacts_of("sqlite:////data/mlflow.db") == "file:///data/mlartifacts"
    assert place.artifacts_of("https://mlflow.example") is None
    assert place.without_password("https://me:secret@mlflow.example:5000/a") == "https://me:***@mlflow.example:5000/a"


def test_a_run_in_a_bucket_is_known_on_another_machine(tmp_path: Path):
    files = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    folder = ArrowStorage(files, "bucket/run", f"test://{tmp_path}/bucket/run")
    assert place.identity_in(folder, "run.json") == {}
    place.keep_identity(folder, {"key": "abc", "started": 5, "uri": "http://host"})
    assert place.identity_in(folder, "run.json") == {"key": "abc", "started": 5}
    assert json.loads((tmp_path / "bucket/run/mlflow.json").read_text()) == {"key": "abc", "started": 5}
