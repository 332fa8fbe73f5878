"""dgseg bench checkpoint: the table, the record, and the target at its real size."""

import json
from pathlib import Path

import pytest
import torch

from dgseg.bench import checkpoint
from dgseg.cli import main


def test_a_small_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "new" / "checkpoint.json"
    arguments = ["--parameters", "0.1", "--rounds", "1", "--folder", str(tmp_path), "--json", str(record)]
    assert main(["bench", "checkpoint", *arguments]) == 0
    shown = capsys.readouterr().out
    for name in (checkpoint.OURS, checkpoint.TORCH, checkpoint.TORCH_SYNCED, "floor", "first save"):
        assert f"    {name:20}" in shown
    assert all(len(line) <= 120 for line in shown.splitlines())
    found = json.loads(record.read_text())
    # Weights and two moments of 100,000 parameters, and 400 counters of steps.
    assert found["bytes"] == 12 * 100_000 + 4 * checkpoint.TENSORS
    assert 0 < found["blocked"][checkpoint.OURS]["median"] <= found["written"][checkpoint.OURS]["median"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # nothing stays on the disk


def test_no_folder() -> None:
    with pytest.raises(SystemExit, match="is no folder"):
        main(["bench", "checkpoint", "--folder", "/nowhere"])


@pytest.mark.slow
def test_training_stands_still_for_two_seconds_at_most(tmp_path: Path) -> None:
    result = checkpoint.measure(85_000_000, torch.device("cpu"), tmp_path, 3)
    assert result.bytes > 1e9
    assert max(result.first, result.blocked[checkpoint.OURS].p95) <= checkpoint.MOST_S
