"""A run on Ray, on a cluster of its own: lost workers, errors, and what the driver shows."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from dgseg.runs.launch.local import run_here
from dgseg.training import Listener
from dgseg.training.listener import RunEnd, RunStart, StepReport
from dgseg.training.memory import KEEP_FREED
from tests.runs.launch.support import attempts, command, disturbed, weights

pytestmark = pytest.mark.usefixtures("own_ray")


class Screen(Listener):
    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def on_start(self, start: RunStart) -> None:
        self.told.append(("start", start.step))

    def on_step(self, report: StepReport) -> None:
        self.told.append(("step", report.step))

    def on_end(self, end: RunEnd) -> None:
        self.told.append((end.status, end.step))


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit for bit what two processes without Ray come to."""
    from dgseg.runs.launch.ray import run_on_ray

    screen, marks = Screen(), tmp_path / "marks"
    result = run_on_ray(
        command(tmp_path / "ray", workers=2), listeners=disturbed(marks, kill={1: 5}, pause=0.1), screen=[screen]
    )
    found, whole = weights(result), weights(run_here(command(tmp_path / "here", workers=2)))
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert attempts(marks, rank=1) == 2
    assert "lost worker 1: starting again from the last checkpoint, 1 of 3 times" in capsys.readouterr().err
    again = screen.told.index(("start", 3))
    first = [("start", 0), *(("step", step) for step in range(1, 5)), ("failed", 4)]
    assert screen.told[:again] == first, "the bar is taken off the screen, once"
    assert [step for kind, step in screen.told[again:] if kind == "step"] == list(range(4, 13))
    assert screen.told[-1] == ("finished", 12)
    assert not [path for path in (tmp_path / "ray").iterdir() if path.name != "run"], "nothing of Ray's stays"


def test_what_comes_late_from_a_lost_attempt_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Its first worker may notice after Ray has: the run has not failed twice, nor with its traceback."""
    import ray

    from dgseg.runs.launch.driver import stream_messages
    from dgseg.runs.launch.mailbox import Mailbox, send
    from dgseg.training.failures import WorkerFailed

    mailbox = ray.remote(num_cpus=0)(Mailbox).remote()

    class Trainer:
        """Of a run whose messages come in the worst order."""

        def fit(self) -> None:
            report = StepReport(4, 12, {}, {}, 1.0, 1.0)
            told: list[tuple[str, object]] = [
                ("arrived", 0),
                ("on_step", report),
                ("lost", "lost worker 1"),
                ("on_step", replace(report, step=5)),
                ("on_end", RunEnd("failed", 5)),
                ("traceback", (0, "of the lost attempt")),
                ("arrived", 0),
                ("on_step", report),
                ("on_end", RunEnd("failed", 4)),
                ("traceback", (0, "of the second\n")),
            ]
            for kind, content in told:
                ray.get(send(mailbox, kind, content))
            raise RuntimeError("it failed")

    screen = Screen()
    with pytest.raises(WorkerFailed, match=r"of the second\n") as error:
        stream_messages(Trainer(), mailbox, [screen], lambda: "")
    assert screen.told == [("step", 4), ("failed", 4), ("step", 4), ("failed", 4)]
    assert "of the lost attempt" not in str(error.value)
    assert "lost worker 1" in capsys.readouterr().err


@dataclass(frozen=True)
class Environment:
    """Writes down the first worker's."""

    file: Path

    def __call__(self) -> list[Listener]:
        self.file.write_text(json.dumps(dict(os.environ)))
        return []


def test_workers_keep_freed_memory_from_their_first_thread_on(tmp_path: Path) -> None:
    """The thread that trains has its arena before the loop can ask for one alone."""
    from dgseg.runs.launch.ray import run_on_ray

    run_on_ray(command(tmp_path, {"schedule.steps": 1}), listeners=Environment(tmp_path / "environment.json"))
    assert KEEP_FREED.items() <= json.loads((tmp_path / "environment.json").read_text()).items()


def test_what_a_user_can_mend_is_told_once_and_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dgseg.runs.launch.ray import run_on_ray

    marks = tmp_path / "marks"
    others = tmp_path / ".launched-run"  # of a first launch of the name, whose restarted workers look for it
    others.touch()
    error = ValueError("labels hold 200 at frankfurt.png")
    with pytest.raises(ValueError, match=f"^{error}$"):
        run_on_ray(command(tmp_path, workers=2), listeners=disturbed(marks, fail=(1, error)))
    assert others.exists()
    assert attempts(marks) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_storage_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    from dgseg.runs.launch.ray import run_on_ray

    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        run_on_ray(command(tmp_path / "file" / "runs", workers=2))


def test_gpus_that_this_machine_has_not(tmp_path: Path) -> None:
    from dgseg.runs.launch.ray import run_on_ray

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    given = command(tmp_path, workers=2)
    with pytest.raises(ValueError, match="2 GPUs are asked for, and this machine has no GPU"):
        run_on_ray(replace(given, run=replace(given.run, device="cuda")))


@pytest.mark.slow
def test_a_mistake_of_ours_comes_with_its_traceback(tmp_path: Path) -> None:
    from dgseg.runs.launch.ray import run_on_ray
    from dgseg.training.failures import WorkerFailed

    with pytest.raises(WorkerFailed, match=r"(?s)worker 1:\n.*in should_stop.*KeyError: 'lost'.*logs of all"):
        run_on_ray(command(tmp_path, workers=2), listeners=disturbed(tmp_path / "m", fail=(1, KeyError("lost"))))


@pytest.mark.slow
def test_told_to_stop_the_workers_save_and_the_same_name_goes_on(tmp_path: Path) -> None:
    from dgseg.runs.launch.ray import run_on_ray

    class Stopper(Screen):
        def on_step(self, report: StepReport) -> None:
            super().on_step(report)
            if report.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    given = command(tmp_path, workers=2)
    stopped = run_on_ray(given, listeners=disturbed(tmp_path / "m", pause=0.3), screen=[Stopper()])
    assert stopped.status == "stopped"
    assert stopped.step < 12
    screen = Screen()
    found = weights(run_on_ray(given, screen=[screen]))
    assert screen.told[0] == ("start", stopped.step)
    whole = weights(run_here(command(tmp_path / "here", workers=2)))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


STARTED = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from dgseg.runs.launch.cluster import cluster
from dgseg.cli.errors import user_errors
from dgseg.runs.launch.main import status
from dgseg.training.progress import Progress
from tests.runs.launch.support import command, disturbed
given = command(Path({storage!r}), workers=2)
with user_errors("run"), cluster(given.launch):
    from dgseg.runs.launch.ray import run_on_ray
    result = run_on_ray(given, listeners=disturbed(Path({marks!r}), pause=0.5), screen=[Progress()])
    sys.exit(status(given, result, None))
"""


def started(folder: Path) -> "subprocess.Popen[str]":
    """A driver with a cluster of its own, when its run has saved for the first time."""
    code = STARTED.format(path=sys.path, storage=str(folder), marks=str(folder / "marks"))
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait(lambda: list((folder / "run" / "checkpoints").glob("step-*[0-9]")), driver)
    return driver


@pytest.mark.slow
def test_ctrl_c_on_the_terminal_saves(tmp_path: Path) -> None:
    """It reaches Ray's processes too, as they are of the same process group."""
    driver = started(tmp_path)
    os.killpg(driver.pid, signal.SIGINT)
    said = driver.communicate(timeout=120)[1]
    assert driver.returncode == 130, said
    assert "stopping: the workers save first" in said
    stopped = re.search(r"stopped after step (\d+)", said)
    assert stopped is not None, said
    assert (tmp_path / "run" / "checkpoints" / f"step-{int(stopped[1]):08d}" / "manifest.json").is_file()
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_killed_driver_takes_its_cluster_with_it_and_loses_nothing(tmp_path: Path) -> None:
    driver = started(tmp_path)
    workers = [int(path.name.split("-")[2]) for path in (tmp_path / "marks").glob("worker-*")]
    assert len(workers) == 2
    driver.kill()
    driver.wait()
    wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    given = command(tmp_path, workers=2)
    found, whole = weights(run_here(given)), weights(run_here(command(tmp_path / "whole", workers=2)))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def wait(until: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_cluster_of_its_own_is_nobody_elses() -> None:
    """Everything listens on 127.0.0.1, and nobody enters without the token."""
    import psutil
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    assert is_token_auth_enabled()
    own = psutil.Process()
    listening = [
        (process.name(), connection.laddr.ip)
        for process in [own, *own.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3
    assert {ip for _, ip in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, listening
