"""`ray job submit`, on a cluster of two nodes on this machine."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dgseg.recipes import to_yaml
from dgseg.runs.launch.cluster import PRIVATE
from dgseg.runs.launch.local import run_here
from dgseg.runs.sweep.record import open_study, trials
from dgseg.training.journal import entries
from dgseg.training.storage import open_storage
from tests.runs.launch.support import command, journalled
from tests.training.harness import tiny

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
RAY = Path(sys.executable).with_name("ray")


class TwoNodes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for scripts in ("ray_jobs", "tuning"):
            (folder / scripts).symlink_to(ROOT / scripts)
        self.environment = os.environ | {
            **PRIVATE,
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_JOB_STOP_WAIT_TIME_S": "60",  # README.md asks for it
            "PYTHONPATH": str(ROOT),
            "PATH": f"{RAY.parent}:{os.environ['PATH']}",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runs.launch.two_nodes"],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.where = json.loads(self.process.stdout.readline())
        self.environment["RAY_ADDRESS"] = self.where["dashboard"]
        for _ in range(60):  # the nodes stand before they take jobs
            if self.ray("job submit -- true").wait() == 0:
                return
            time.sleep(1)
        raise AssertionError("no job could be submitted")

    def do(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def ray(self, line: str, *words: str, cwd: Path | None = None) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [RAY, *line.split(), *words],
            cwd=cwd or self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> None:
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    cluster = TwoNodes(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.end()


def said(process: "subprocess.Popen[str]", seconds: float = 400) -> str:
    text = process.communicate(timeout=seconds)[0]
    assert process.returncode == 0, text
    return text


def test_without_arguments_it_trains_the_default_recipe_until_it_is_stopped(nodes: TwoNodes) -> None:
    submitted = nodes.ray(*["job", "submit", "--", "python", "ray_jobs/train_flexseg.py"])
    assert submitted.stdout is not None
    lines = []
    for line in submitted.stdout:
        lines.append(line)
        if line.startswith("step "):
            break
    text = "".join(lines)
    assert "flexseg-streets: bisenet_mini on cpu, 1 worker" in text, text
    job = re.search(r"raysubmit_\w+", text)
    assert job is not None
    said(nodes.ray("job stop", job[0]))
    rest = submitted.communicate(timeout=100)[0]
    stopped = re.search(r"stopped after step (\d+) .* and saved: the same command resumes from there", rest)
    assert stopped is not None, rest
    saved = nodes.folder / "runs" / "flexseg-streets" / "checkpoints" / f"step-{int(stopped[1]):08d}"
    assert (saved / "manifest.json").is_file()


def test_the_workers_of_a_job_stand_on_both_nodes(nodes: TwoNodes, tmp_path: Path) -> None:
    """Each node has one CPU, and the two workers take one each."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(command(tmp_path).recipe))
    line = (
        f"job submit -- python ray_jobs/train_flexseg.py --recipe {recipe} --storage {tmp_path} --name two --workers 2"
    )
    text = said(nodes.ray(line))
    assert "two: bisenet_mini on cpu, 2 workers" in text, text
    assert (tmp_path / "two" / "weights.safetensors").is_file()
    assert "succeeded" in text


def test_a_sweep_is_a_job_too(nodes: TwoNodes, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny({"schedule.steps": 9, "train.evaluate_every": 1})))
    line = f"job submit -- python tuning/sweep.py --recipe {recipe} --storage {tmp_path} --name search --trials 2"
    text = said(nodes.ray(f"{line} --cpus-per-worker 1 --device cpu --no-mlflow"))
    assert "succeeded" in text
    records = trials(open_study(open_storage(tmp_path / "search")))
    assert [each.status for each in records if each.status not in ("finished", "stopped")] == [], text
    assert (tmp_path / "search" / "winner.yaml").is_file()


def test_a_checkout_reaches_the_cluster_with_its_libraries(nodes: TwoNodes) -> None:
    code = "import dgseg, dgseg._host; from dgseg.ops import backends; print(dgseg.__file__, backends('cpu'))"
    line = "job submit --working-dir . --runtime-env ray_jobs/package.yaml -- python -c"
    text = said(nodes.ray(line, code, cwd=ROOT))
    found = re.search(r"^(/\S+)/dgseg/__init__.py (\{.*\})$", text, re.MULTILINE)
    assert found is not None, text
    assert "runtime_resources/py_modules_files" in found[1]
    assert "reference" not in found[2]


def test_what_a_user_can_mend_is_one_line_of_the_jobs_output(nodes: TwoNodes) -> None:
    line = "job submit -- python ray_jobs/train_flexseg.py erm-street"
    text = nodes.ray(line).communicate(timeout=100)[0]
    assert "dgseg train: there is no recipe 'erm-street'; did you mean erm-streets" in text
    assert "Traceback" not in text


ELASTIC = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from dgseg.runs.launch.cluster import cluster
from dgseg.cli.errors import user_errors
from dgseg.runs.launch.main import status
from dgseg.training.progress import Progress
from tests.runs.launch.support import KeptAnd, command, disturbed
given = command(Path({storage!r}), {changes!r}, workers=2, min_workers=1)
with user_errors("elastic"), cluster(given.launch):
    from dgseg.runs.launch.ray import run_on_ray
    listeners = KeptAnd(disturbed(Path({marks!r}), pause=0.4))
    sys.exit(status(given, run_on_ray(given, listeners=listeners, screen=[Progress()]), None))
"""


def test_an_elastic_run_goes_on_with_one_worker_and_then_with_two_again(nodes: TwoNodes, tmp_path: Path) -> None:
    """A node is lost, another one comes: the same samples in the same order, so an undisturbed run's losses."""
    changes = {"schedule.steps": 2000}
    code = ELASTIC.format(path=[str(ROOT)], storage=str(tmp_path), marks=str(tmp_path / "marks"), changes=changes)
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        env=nodes.environment | {"RAY_ADDRESS": nodes.where["gcs"]},
        stderr=subprocess.PIPE,
        text=True,
    )
    told = read_until(driver, "2 workers")
    wait_for_checkpoint(tmp_path)
    nodes.do("lose")
    told += read_until(driver, "1 worker, resumed after step")
    nodes.do("add")
    told += read_until(driver, "2 workers, resumed after step")  # Ray looks for more machines once a minute
    time.sleep(3)
    driver.send_signal(signal.SIGTERM)
    told += driver.communicate(timeout=200)[1]
    assert driver.returncode == 130, told
    assert "starting again from the last checkpoint, 1 of 3 times" in told
    lines = entries(open_storage(tmp_path / "run"))
    assert [each["world_size"] for each in lines if each["kind"] == "start"] == [2, 1, 2]
    losses = [each["losses"]["loss"] for each in lines if each["kind"] == "step"]
    assert [each["step"] for each in lines if each["kind"] == "step"] == list(range(1, len(losses) + 1))
    alone = command(tmp_path / "alone", changes)
    run_here(replace(alone, run=replace(alone.run, stop_after=len(losses))), listeners=journalled)
    lines = entries(open_storage(tmp_path / "alone" / "run"))
    assert losses == pytest.approx([each["losses"]["loss"] for each in lines if each["kind"] == "step"], rel=0.02)


def read_until(process: "subprocess.Popen[str]", words: str) -> str:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def wait_for_checkpoint(storage: Path) -> None:
    deadline = time.monotonic() + 100
    while not list((storage / "run" / "checkpoints").glob("step-*[0-9]/manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
