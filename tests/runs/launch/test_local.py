"""dgseg train: several processes on one machine, without Ray, and what happens when one is lost or told to stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dgseg.recipes import to_yaml
from dgseg.runs.launch.local import run_here
from dgseg.training import NonFiniteLoss
from dgseg.training.checkpoint import CheckpointError
from dgseg.training.failures import WorkerFailed, is_retryable
from tests.runs.launch.support import attempts, command, disturbed, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of two workers that nothing disturbed."""
    return weights(run_here(command(tmp_path_factory.mktemp("whole"), workers=2)))


def test_a_killed_worker_is_replaced_and_nothing_is_lost(
    tmp_path: Path, whole: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    marks = tmp_path / "marks"
    result = run_here(command(tmp_path, workers=2), listeners=disturbed(marks, kill={1: 5}))
    found = weights(result)
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert attempts(marks) == 2
    said = capsys.readouterr().err
    assert "worker 1 was killed by SIGKILL: starting again from the last checkpoint, 1 of 3 times" in said


def test_what_would_fail_again_is_told_once_as_it_was_raised(tmp_path: Path) -> None:
    error = ValueError("labels hold 200")
    with pytest.raises(ValueError, match=f"^{error}$"):
        run_here(command(tmp_path, workers=2), listeners=disturbed(tmp_path / "marks", fail=(1, error)))
    assert attempts(tmp_path / "marks") == 1


@pytest.mark.slow
def test_a_worker_is_not_replaced_more_often_than_allowed(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match="worker 0 was killed by SIGKILL"):
        run_here(command(tmp_path, workers=2, failures=0), listeners=disturbed(tmp_path / "marks", kill={0: 2}))


@pytest.mark.slow
def test_a_mistake_of_ours_comes_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match=r"(?s)worker 1 failed:.*in should_stop.*KeyError: 'lost'"):
        run_here(command(tmp_path, workers=2), listeners=disturbed(tmp_path / "marks", fail=(1, KeyError("lost"))))
    assert attempts(tmp_path / "marks") == 1


def test_gpus_that_ray_would_set_aside_are_not_silently_left_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--gpus-per-worker is for Ray"):
        run_here(command(tmp_path, gpus_per_worker=1))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RuntimeError("Connection reset by peer"), True),
        (OSError("stale file handle"), True),
        (CheckpointError("the disk is full"), True),
        (ValueError("no such file"), False),
        (NonFiniteLoss("step 3"), False),
        (torch.OutOfMemoryError("GPU"), False),
        (NotImplementedError("on this device"), False),
        (KeyError("a mistake"), False),
    ],
)
def test_which_failures_another_attempt_may_get_past(error: Exception, again: bool) -> None:
    assert is_retryable(error) == again


STARTED = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from dgseg.runs.launch.local import run_here
from dgseg.cli.errors import user_errors
from dgseg.runs.launch.main import status
from tests.runs.launch.support import command, disturbed, KeptAnd
if __name__ == "__main__":
    with user_errors("dgseg train"):
        given = command(Path({storage!r}), {{"schedule.steps": 1000}}, workers=2)
        sys.exit(status(given, run_here(given, listeners=KeptAnd(disturbed(Path({marks!r}), pause=0.05))), None))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_told_to_stop_all_workers_save(tmp_path: Path, number: signal.Signals) -> None:
    """The whole process group hears Ctrl-C, as on a terminal; SIGTERM reaches the first process alone."""
    script = tmp_path / "started.py"
    script.write_text(STARTED.format(path=sys.path, storage=str(tmp_path), marks=str(tmp_path / "marks")))
    process = subprocess.Popen([sys.executable, script], start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints").is_dir():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    end = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert end["status"] == "stopped"
    saved = [int(path.name.removeprefix("step-")) for path in (tmp_path / "run" / "checkpoints").glob("step-*")]
    assert max(saved) == end["step"], "nothing that was trained is lost"


@pytest.mark.slow
def test_under_torchrun(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    """python -m torch.distributed.run … -m dgseg train: the workers are torchrun's."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(command(tmp_path).recipe))
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    call += ["--nproc-per-node", "2", "-m", "dgseg", "train", "--recipe", str(recipe), "--storage", str(tmp_path)]
    done = subprocess.run(
        [*call, "--name", "run", "--device", "cpu", "--cpus-per-worker", "1"],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(found[name], whole[name]) for name in whole)
