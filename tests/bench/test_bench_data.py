"""`dgseg bench data`: what is wrong gets no figures; what is printed is written."""

import json

import numpy as np
import pytest

from dgseg.bench import samplers
from dgseg.bench.part import Part, Row
from dgseg.cli import main


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(samplers, "IMAGES", 200_000)  # a tenth of it with --quick
    monkeypatch.setattr(samplers, "CHECK_DRAWS", 100_000)


def test_the_command_writes_what_it_prints(tmp_path, capsys, small):
    written = tmp_path / "folder" / "data.json"
    assert main(["bench", "data", "--only", "samplers", "--quick", "--json", str(written)]) == 0
    found = json.loads(written.read_text())
    assert {"hardware", "versions", "commit", "settings", "parts"} <= found.keys()
    (part,) = found["parts"]
    rows = {row["what"]: row for row in part["rows"]}
    assert rows["memory per image, scores and sums"]["ok"]
    printed = capsys.readouterr().out
    assert all(what in printed for what in rows)
    assert "20,000 images" in printed
    assert max(map(len, printed.splitlines()[3:])) <= 120


def test_a_table_that_draws_something_else_gets_no_figures(monkeypatch, capsys, small):
    monkeypatch.setattr(samplers, "weights", lambda table: np.full(len(table), 1 / len(table)))
    assert main(["bench", "data", "--only", "samplers", "--quick"]) == 1
    printed = capsys.readouterr().out
    assert "REFUSED: no figures are reported, because probabilities are off" in printed
    assert "us" not in printed.split("REFUSED")[1].split()


def test_draws_are_judged_by_themselves(small):
    class Biased:
        """Right in what it says, wrong in what it draws."""

        def __init__(self, table):
            self.table = table

        def probabilities(self, indices):
            return self.table.probabilities(indices)

        def draw(self, u):
            return self.table.draw(u**1.1)

    random = np.random.default_rng(0)
    table = samplers.filled(20_000, random)
    p = samplers.weights(table)
    assert samplers.objection(table, p, random) is None
    assert "chi-square" in samplers.objection(Biased(table), p, random)


def test_rows_are_judged_by_their_targets():
    assert Row("a", 2.0, "us", 3).ok
    assert not Row("a", 4.0, "us", 3).ok
    assert Row("a", 4.0, "samples/s", 3, at_least=True).ok
    assert Row("a", 4.0, "us").ok is None
    text = Part("x", "y", [Row("a", 4.0, "us", 3), Row("b", 1234.5, "us")]).text
    assert "MISSED" in text
    assert "1234" in text
