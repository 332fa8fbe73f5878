"""Two runs in turns: each is timed as if it were alone, whatever it has started, and what fails ends both."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dgseg.runs.sweep import measure
from dgseg.runs.sweep.measure import Turns

SPIN = "import time\nwhile time.process_time() < {}: pass"


def work(run: Path, seconds: float, status: int = 0) -> None:
    run.mkdir()
    (run / "recipe.yaml").touch()
    subprocess.run([sys.executable, "-c", SPIN.format(seconds)], check=True)
    if status:
        raise SystemExit(status)
    (run / "result.json").touch()


def test_runs_in_turns_take_what_they_take_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "TURN", 0.1)
    began = time.monotonic()
    with Turns(work, (tmp_path / "one", 1.0), {}, tmp_path / "one") as one:
        one.begin()
        time.sleep(1)  # it stands still
        with Turns(work, (tmp_path / "other", 2.0), {}, tmp_path / "other") as other:
            other.begin()
            while waiting := [each for each in (one, other) if not each.ended]:
                for each in waiting:
                    each.turn()
    assert time.monotonic() - began > one.seconds + other.seconds + 1
    assert 1.0 <= one.seconds < other.seconds
    assert other.seconds >= 2.0
    assert one.startup > 0


def test_what_fails_ends_both(tmp_path: Path):
    def both() -> None:
        with Turns(work, (tmp_path / "one", 3600.25), {}, tmp_path / "one") as one:
            one.begin()
            with Turns(work, (tmp_path / "other", 0.1, 3), {}, tmp_path / "other") as other:
                other.begin()
                while True:
                    other.turn()

    with pytest.raises(measure.Ended) as ended:
        both()
    assert ended.value.status == 3
    there = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    assert SPIN.format(3600.25) not in [each[-1] for each in there if each]
