"""dgseg bench evaluation runs, verifies before it times, and writes what it prints."""

import json

import torch

from dgseg.cli import main


def test_tiny(tmp_path, capsys):
    written, threads = tmp_path / "bench.json", torch.get_num_threads()
    try:
        assert main(["bench", "evaluation", "--size", "tiny", "--rounds", "1", "--json", str(written)]) == 0
    finally:
        torch.set_num_threads(threads)
    result = json.loads(written.read_text())["results"][0]
    assert result["op"] == "evaluation"
    assert {"dgseg", "torchmetrics", "loading"} <= result["times"].keys()
    assert "images/s" in capsys.readouterr().out
