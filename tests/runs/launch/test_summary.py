"""What is printed when a run is over."""

from dataclasses import replace

import pytest

from dgseg.recipes import named
from dgseg.runs.launch.summary import show
from dgseg.training import RunResult
from dgseg.training.listener import ScoreReport

SCORES = ScoreReport(10, True, {"fog": {"miou": 0.4}, "mine": {"miou": float("nan")}}, {"adverse": 0.3})
RESULT = RunResult("finished", 10, "runs/my-run", "runs/my-run/weights.safetensors", SCORES)


def test_the_table_names_the_run_beside_the_baseline_of_the_same_data(capsys: pytest.CaptureFixture[str]) -> None:
    show(RESULT, named("flexseg-streets"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["domain", "my-run", "erm-streets", "difference"]
    assert lines[3].split()[:2] == ["fog", "40.0"]
    assert lines[3].split()[3].startswith(("+", "-"))
    assert lines[4].split() == ["mine", "–", "–", "–"]  # the baseline has no such domain
    assert any(line.startswith("erm-streets: committed figures") for line in lines)
    assert lines[-1] == "weights   runs/my-run/weights.safetensors"


def test_on_other_data_the_baseline_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = named("flexseg-streets")
    show(RESULT, replace(recipe, data=replace(recipe.data, test=("folder=mine",))))
    assert "erm-streets" not in capsys.readouterr().out


def test_without_a_test_the_weights_are_named_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    show(replace(RESULT, scores=None), named("flexseg-streets"))
    assert capsys.readouterr().out == "weights   runs/my-run/weights.safetensors\n"
