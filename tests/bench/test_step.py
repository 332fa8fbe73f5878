"""dgseg bench step at a size of a few pixels: the contenders agree, a wrong one is refused, the table says it all."""

import dataclasses

import pytest
import torch

from dgseg.bench import step
from dgseg.cli import main

CASE = dataclasses.replace(step.CASES["streets"], size=(64, 96), batch=2)
CPU = torch.device("cpu")


@pytest.mark.parametrize("dim", [64, 32], ids=["as it is", "projected"])
def test_ours_and_plain_torch_agree(dim):
    result = step.run_case(dataclasses.replace(CASE, dim=dim), CPU, loss_rounds=1, step_rounds=1)
    shown = step.text(result)
    for name in (step.PLAIN_CE, step.TORCH_CE, step.FLEX_SEG, step.TORCH_FLEX_SEG):
        assert name in shown
    assert step.as_json(result)["cost_over_plain_ce"][step.PLAIN_CE] == 0
    assert all(len(line) <= 120 for line in shown.splitlines())


def test_a_contender_that_computes_something_else_gets_no_time(monkeypatch):
    config = step.PrototypeContrast.Config
    monkeypatch.setattr(step.PrototypeContrast, "Config", lambda dim: config(dim=dim, temperature=0.1))
    with pytest.raises(RuntimeError, match="no speed is reported: FLEX-Seg, dgseg has gap"):
        step.run_case(CASE, CPU, loss_rounds=1, step_rounds=1)


def test_impossible_counts_are_refused():
    with pytest.raises(SystemExit, match="at least 1"):
        main(["bench", "step", "--rounds", "0"])
