"""dgseg bench ranks: the table and the record of two workers."""

import json
from pathlib import Path

import pytest

from dgseg.bench.ranks import MEMORY, SOCKETS
from dgseg.cli import main


def test_two_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "new" / "ranks.json"
    assert main(["bench", "ranks", "--quick", "--json", str(record)]) == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 120 for line in shown.splitlines())
    rows = {row["what"]: row["value"] for row in json.loads(record.read_text())["parts"][0]["rows"]}
    for way in (SOCKETS, MEMORY):
        assert 0 < rows[f"row, {way}: median"] <= rows[f"row, {way}: 90 %"]
        assert f"step, {way}" in shown
        assert rows[f"step, {way}"] > 0


def test_nobody_to_tell() -> None:
    with pytest.raises(SystemExit, match="at least 2"):
        main(["bench", "ranks", "--workers", "1"])
