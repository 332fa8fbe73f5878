"""A sweep as its user starts it: killed, started again, with a trial that fails; and what MLflow then shows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dgseg.recipes import to_yaml
from dgseg.runs.sweep.record import TrialRecord, open_study, trials
from dgseg.training.storage import open_storage
from tests.training.harness import tiny

ROOT = Path(__file__).resolve().parents[3]


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    recipe = tiny({"schedule.steps": 18, "train.evaluate_every": 2})
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    line = [sys.executable, "-m", "dgseg", "sweep", "--recipe", "recipe.yaml", "--name", "mine"]
    line += ["--device", "cpu", "--cpus-per-worker", "1", "--jobs", "2", "--trials", "3", *more]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def known(folder: Path) -> list[TrialRecord]:
    if not (folder / "runs" / "mine" / "trials.jsonl").exists():
        return []
    return trials(open_study(open_storage(folder / "runs" / "mine")))


def wait_for_a_score(folder: Path, sweep: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not any(each.scores for each in known(folder)):
        assert sweep.poll() is None, sweep.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_told_to_stop_says_how_it_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    sweep = start(tmp_path)
    wait_for_a_score(tmp_path, sweep)
    sweep.send_signal(number)
    said = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 130, said
    assert "stopped; the same command resumes" in said
    assert "Traceback" not in said
    assert (tmp_path / "runs" / "mine" / "summary.md").exists()


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_a_failing_trial_is_reported(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    sweep = start(tmp_path)
    wait_for_a_score(tmp_path, sweep)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    before = known(tmp_path)
    (tmp_path / "runs" / "mine" / "trial-002").write_text("no folder")  # in the way of the third trial

    refused = start(tmp_path, "--searcher", "random").communicate()[0]
    assert "begun with another searcher" in refused

    sweep = start(tmp_path)
    said = sweep.communicate(timeout=400)[0]
    assert sweep.returncode == 0, said
    assert "resuming mine" in said
    after = known(tmp_path)
    assert [each.values for each in after[: len(before)]] == [each.values for each in before]
    assert {each.status for each in after[:2]} <= {"finished", "stopped"}
    assert after[2].status == "failed"
    assert "trial-002" in after[2].reason
    assert "trial 2 failed" in said
    assert "dgseg train flexseg-streets" in said
    assert sorted(path.name for path in (tmp_path / "runs" / "mine").iterdir() if path.name != "lock") == [
        *("parallel.png", "slices.png", "summary.md", "sweep.json", "trial-000", "trial-001", "trial-002"),
        *("trials.jsonl", "winner.yaml"),
    ]

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("dgseg").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["FINISHED"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == 2
    for run in children:
        trial = after[int(run.data.tags["trial"])]
        assert run.info.status == {"finished": "FINISHED", "stopped": "KILLED"}[trial.status]
        assert ("stopped" in run.data.tags) == (trial.status == "stopped")
