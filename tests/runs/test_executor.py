"""Jobs side by side: order, failures, kills and stops, in this process and on Ray."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dgseg.runs.executor import KILLED, Job, Outcome, execute
from dgseg.training.interrupt import Interrupt


def finish() -> str:
    return "finished"


def fail() -> str:
    raise ValueError("labels hold 200")


def die() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


def meet(folder: Path, own: str, other: str) -> str:
    """Ends when the other has begun, too."""
    (folder / own).touch()
    deadline = time.monotonic() + 100
    while not (folder / other).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return f"with {os.environ['OMP_NUM_THREADS']} thread"


def save_when_stopped(folder: Path, name: str) -> str:
    with Interrupt().listening() as interrupt:
        (folder / f"{name}-began").touch()
        while not interrupt.requested:
            time.sleep(0.05)
        time.sleep(1)
        (folder / f"{name}-saved").touch()
    raise KeyboardInterrupt


def both(at_once: int, jobs: list[Job]) -> tuple[Outcome, list[str]]:
    lines: list[str] = []
    return execute(jobs, at_once, device="cpu", say=lines.append), lines


@pytest.fixture(params=[1, pytest.param(2, id="on Ray")])
def at_once(request: pytest.FixtureRequest) -> int:
    if request.param > 1:
        request.getfixturevalue("own_ray")
    return int(request.param)


def test_a_job_that_fails_is_reported_and_what_begins_with_it_is_not_begun(at_once: int, tmp_path: Path):
    mark = tmp_path / "begun"
    outcome, lines = both(
        at_once,
        [
            Job("a", "A", fail),
            Job("b", "B", lambda: str(mark.touch()), after="a"),
            Job("c", "C", finish),
            Job("d", "D", finish, after="c"),
        ],
    )
    assert outcome.failed == {"a": "ValueError: labels hold 200", "b": "a, which it begins with, failed"}
    assert (outcome.stopped, outcome.complete) == (False, False)
    assert not mark.exists()
    assert sorted(line.partition("  ")[0] for line in lines) == ["1/4", "2/4", "3/4", "4/4"]
    assert any("D: finished, 0 s" in line or "D: finished, 1 s" in line for line in lines), lines


def test_a_job_begins_after_the_one_that_it_needs(at_once: int, tmp_path: Path):
    order = tmp_path / "order"

    def note(name: str) -> str:
        with order.open("a") as file:
            file.write(name)
        return "finished"

    outcome, _ = both(at_once, [Job("a", "A", partial(note, "a")), Job("b", "B", partial(note, "b"), after="a")])
    assert outcome.complete
    assert order.read_text() == "ab"


def test_jobs_run_side_by_side_each_with_its_share_of_the_cores(own_ray: None, tmp_path: Path):
    outcome, lines = both(
        2, [Job("a", "A", partial(meet, tmp_path, "a", "b")), Job("b", "B", partial(meet, tmp_path, "b", "a"))]
    )
    assert outcome.complete
    assert all("with 1 thread" in line for line in lines), lines


def test_a_killed_process_costs_its_own_job_alone(own_ray: None):
    outcome, _ = both(2, [Job("a", "A", die), Job("b", "B", finish), Job("c", "C", finish)])
    assert outcome.failed == {"a": KILLED}
    assert not outcome.stopped


def test_a_signal_lets_every_job_save_and_begins_no_other(own_ray: None, tmp_path: Path):
    def interrupt_when(ready: Callable[[], bool]) -> None:
        while not ready():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    names = ("a", "b", "c")
    thread = threading.Thread(
        target=interrupt_when, args=(lambda: all((tmp_path / f"{name}-began").exists() for name in names[:2]),)
    )
    thread.start()
    outcome, lines = both(2, [Job(name, name, partial(save_when_stopped, tmp_path, name)) for name in names])
    thread.join()
    assert (outcome.stopped, outcome.failed) == (True, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-began", "a-saved", "b-began", "b-saved"]
    assert lines[0] == "stopping: the runs save first; once more, and they are not waited for"


def test_one_at_a_time_needs_no_ray():
    code = """
import sys
from dgseg.runs.executor import Job, execute
assert execute([Job("a", "A", lambda: "finished")], 1).complete
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stop_ends_the_list(tmp_path: Path):
    def stop() -> str:
        raise KeyboardInterrupt

    outcome, lines = both(1, [Job("a", "A", stop), Job("b", "B", finish)])
    assert (outcome.stopped, lines) == (True, ["1/2  A: stopped"])


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_at_a_time(count: int):
    with pytest.raises(ValueError, match=r"--jobs is .*; it must be at least 1"):
        execute([], count)
