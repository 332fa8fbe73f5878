"""A run in MLflow is the run of its folder; a study's runs stand under one parent."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from dgseg.runs.study.execute import execute, finished, plan
from dgseg.runs.study.grids import Grid, Row
from dgseg.runs.study.mlflow_runs import close, from_mlflow, parent
from dgseg.runs.tracking.listener import MlflowConfig, TrackingWarning
from tests.training.harness import tiny


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_mlflow_and_the_folders_say_the_same(tmp_path: Path):
    recipe = tiny({"schedule.steps": 4, "schedule.warmup": 1, "train.evaluate_every": 2}, words="erm-streets")
    runs = plan(Grid("small", "Does it run?", [Row("base", recipe)]), (3,))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = MlflowConfig(uri=uri, system_interval=0, tags={"study": "small"}, wait=300).resolved()
    under = parent(config, f"{tmp_path}/small", "Does it run?")
    assert parent(config, f"{tmp_path}/small", "Does it run?").parent == under.parent  # a study that is resumed
    assert execute(runs, f"{tmp_path}/runs", device="cpu", mlflow=under, say=lambda _: None).complete
    close(under, finished=True)

    client = MlflowClient(config.uri)
    [run] = client.search_runs(["1"], "tags.row = 'base'")
    assert run.data.tags["mlflow.parentRunId"] == under.parent
    assert client.get_run(str(under.parent)).info.status == "FINISHED"

    [of_folder] = finished(runs, f"{tmp_path}/runs").values()
    found = from_mlflow(config, curves=True)
    assert list(found.left_out.values()) == ["no test scores, as a parent has none"]
    [record] = found.records
    assert (record.name, record.seed, record.commit) == (of_folder.name, 3, of_folder.commit)
    assert record.scores == pytest.approx(of_folder.scores)
    assert record.fields == of_folder.fields
    for name in ("loss", "validation/miou"):
        assert dict(record.curves[name]) == pytest.approx(dict(of_folder.curves[name]))
    assert [step for step, _ in record.curves["validation/miou"]] == [2, 4]

    assert from_mlflow(config, tags={"study": "small"}).records == [replace(record, curves={})]
    assert from_mlflow(config, runs=[run.info.run_id]).records == [replace(record, curves={})]
    assert not from_mlflow(config, tags={"study": "another"}).records
    with pytest.raises(ValueError, match=r"no experiment 'dgsek'; it has .*dgseg"):
        from_mlflow(config, experiments=["dgsek"])
    with pytest.raises(ValueError, match=r"MLflow at sqlite.*not found"):
        from_mlflow(config, runs=["0" * 32])


def test_a_server_that_is_down_costs_a_study_its_parent_and_no_results():
    config = MlflowConfig(uri="http://127.0.0.1:9")  # where nobody answers
    with pytest.warns(TrackingWarning, match="no run there"):
        assert parent(config, "small", "Does it run?") == config
    with pytest.warns(TrackingWarning, match="is not told"):
        close(replace(config, parent="0" * 32), finished=True)
