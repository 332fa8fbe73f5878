"""What a sweep costs is read off the files of its runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgseg.recipes import to_yaml
from dgseg.runs.sweep.measure import over, seconds
from tests.training.harness import tiny


def test_a_run_takes_from_its_recipe_to_its_last_file(tmp_path: Path):
    for name, at in (("recipe.yaml", 100), ("metrics.jsonl", 190), ("result.json", 160)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (at, at))
    assert seconds(tmp_path) == 90


def test_overheads_are_shares_pair_by_pair():
    assert over([11.0, 24.0], [10.0, 20.0]) == {
        "mean": pytest.approx(0.15),
        "standard_error": pytest.approx(0.05),
        "of_trials": pytest.approx([0.1, 0.2]),
    }
    assert over([2.0], [1.0])["standard_error"] is None


@pytest.mark.slow
@pytest.mark.parametrize("what", ["asha", "overhead"])
def test_measured_as_a_user_does(tmp_path: Path, what: str):
    (tmp_path / "recipe.yaml").write_text(to_yaml(tiny({"schedule.steps": 9, "train.evaluate_every": 1})))
    words = ["--recipe", "recipe.yaml", "--name", "m", "--trials", "2", "--measure", what, "--device", "cpu"]
    line = [sys.executable, "-m", "dgseg", "sweep", *words, "--cpus-per-worker", "1", "--no-mlflow"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(line, cwd=tmp_path, env=environment, check=True)
    results = json.loads((tmp_path / "runs" / "m.json").read_text())
    assert results["trials"] == 2
    assert results["asha_share_of_steps" if what == "asha" else "overhead_of_all"]
