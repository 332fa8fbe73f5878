"""Every example runs, as its user runs it, with few steps; the notebooks too."""

import os
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT

EXAMPLES = ROOT / "examples"
ARGUMENTS = {
    "operator_alone.py": [],
    "own_dataset.py": [],
    "own_loop.py": ["--steps", "2"],
}
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def run(name, arguments, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example(name, tmp_path):
    printed = run(name, ARGUMENTS[name], tmp_path)
    assert {
        "operator_alone.py": "served by",
        "own_dataset.py": "mIoU",
        "own_loop.py": "prototypes seen",
    }[name] in printed


@pytest.mark.slow
def test_train_then_predict_and_evaluate(tmp_path):
    printed = run("train_in_python.py", ["--steps", "10"], tmp_path)
    assert "finished after step 10, lowest loss" in printed
    printed = run("predict_and_evaluate.py", ["runs/alpha5/weights.safetensors", "--images", "2"], tmp_path)
    assert "fog: " in printed
    assert (tmp_path / "overlay.png").is_file()


@pytest.mark.slow
def test_a_loss_of_ones_own(tmp_path):
    assert "finished after step 10" in run("own_loss.py", ["--steps", "10"], tmp_path)


def test_every_example_is_short_and_run():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {*ARGUMENTS, "own_loss.py", "train_in_python.py", "predict_and_evaluate.py"}
    assert all(len((EXAMPLES / name).read_text().splitlines()) <= 40 for name in scripts)
    assert len(NOTEBOOKS) == 2


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook(notebook, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    NotebookClient(
        nbformat.read(notebook, as_version=4), timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
