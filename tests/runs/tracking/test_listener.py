"""A run's way into a real MLflow: servers that die, that never answer, that are down; processes that are killed."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from dgseg.cli.doctor import services
from dgseg.models import build, load_weights
from dgseg.models.inference import predict_logits
from dgseg.models.weights.loading import save_weights
from dgseg.runs.tracking.follow import replay
from dgseg.runs.tracking.listener import MlflowConfig, MlflowListener, TrackingWarning
from dgseg.runs.tracking.sender import RUN_KEY, Sender
from dgseg.runs.tracking.spool import LOCK, Writer, read_json, segments
from dgseg.training.listener import RunEnd
from tests.runs.tracking import fake_training
from tests.runs.tracking.servers import Server, free_port, silent_server

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all tests: making MLflow's tables takes seconds. Each test has an experiment of its own."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('database') / 'mlflow.db'}"
    MlflowClient(uri)
    return uri


@pytest.fixture
def nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}"


def run_of(uri: str, key: str, experiment: str = "dgseg") -> Run:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], f"tags.`{RUN_KEY}` = '{key}'")
    assert len(runs) == 1, "one run per job"
    return client.get_run(runs[0].info.run_id)


def steps_of(uri: str, run: Run, metric: str) -> list[int]:
    return [each.step for each in MlflowClient(uri).get_metric_history(run.info.run_id, metric)]


def unheard(uri: str, **options: object) -> MlflowListener:
    """Whose server is down from beginning to end."""
    return MlflowConfig(uri, wait=0, system_interval=0, **options).build()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def killed_in_between(tmp_path_factory: pytest.TempPathFactory):
    """A whole run, whose server dies by SIGKILL between steps 100 and 110 and is back at 200."""
    folder = tmp_path_factory.mktemp("server")
    run, server = folder / "run", Server(folder)
    save_weights(build("bisenet_mini"), folder / "final.safetensors")
    server.start()
    try:
        listener = MlflowConfig(server.uri, parent="0" * 32, tags={"sweep": "none"}, system_interval=0.5).build()
        listener.on_start(fake_training.start(run))
        slowest = 0.0
        for step in range(10, 201, 10):
            if step == 110:
                until = time.monotonic() + 60
                while listener.run_id is None and time.monotonic() < until:
                    time.sleep(0.1)
                time.sleep(1)
                server.kill()
            began = time.perf_counter()
            listener.on_step(fake_training.step_report(step, **{"gap/seen": float("nan") if step == 50 else 1.0}))
            slowest = max(slowest, time.perf_counter() - began)
            if step == 100:
                listener.on_scores(fake_training.scores(step, final=False, folder=folder))
                listener.on_checkpoint(fake_training.checkpoint(step))
        listener.on_scores(fake_training.scores(200, final=True, folder=folder))
        for picture in folder.glob("*.png"):
            picture.unlink()  # the loop's own are its to delete
        server.start()
        shutil.copy(folder / "final.safetensors", folder / "weights.safetensors")
        listener.on_end(RunEnd("finished", 200, folder / "weights.safetensors"))
        yield server, listener, run, slowest
    finally:
        server.kill()


def test_every_point_arrives_once_though_the_server_died(killed_in_between):
    server, listener, _, slowest = killed_in_between
    run = run_of(server.uri, listener.state_dict()["key"])
    assert run.info.status == "FINISHED"
    for metric in ("loss/total", "loss/ce", "loop/lr", "loop/images_per_second"):
        assert steps_of(server.uri, run, metric) == list(range(10, 201, 10))
    assert steps_of(server.uri, run, "gap/seen") == [step for step in range(10, 201, 10) if step != 50]
    assert run.data.metrics["nonfinite_metrics"] == 1
    assert steps_of(server.uri, run, "validation/dusk/miou") == [100]
    assert steps_of(server.uri, run, "fog/miou") == [200]
    assert steps_of(server.uri, run, "fog/iou/traffic light") == [200]
    assert run.data.metrics["adverse/miou"] == 0.41
    assert slowest < 0.5, "training waited for a dead server"


def test_what_a_run_is_stands_in_its_record(killed_in_between):
    server, listener, folder, _ = killed_in_between
    run = run_of(server.uri, listener.state_dict()["key"])
    assert run.data.params["objective.ube.alpha"] == "3.0"
    assert run.data.params["schedule.steps"] == "200"
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == "0" * 32
    assert tags["mlflow.runName"] == tags["recipe"] == "flexseg_streets"
    assert {"host", "world_size", "torch", "dgseg", "mlflow.user"} <= tags.keys()
    assert tags["sweep"] == "none"
    assert tags["checkpoint"].endswith("step-000100")
    assert "| **adverse** |" in tags["mlflow.note.content"]
    contexts = {each.dataset.name: each.tags[0].value for each in run.inputs.dataset_inputs}
    assert contexts["streets=generated@train"] == "training"
    assert contexts["streets=fog@test"] == "test"
    assert len(contexts) == 10
    assert any(name.startswith("system/cpu") for name in run.data.metrics)
    assert not segments(folder / "mlflow", "training"), "nothing waits any more"
    assert read_json(folder / "mlflow" / "run.json")["run_id"] == run.info.run_id == listener.run_id
    assert run.info.run_id in listener.how_to_open()


def test_tables_and_pictures_are_artifacts(killed_in_between, tmp_path: Path):
    server, listener, _, _ = killed_in_between
    client = MlflowClient(server.uri)
    run_id = listener.run_id
    names = {each.path for each in client.list_artifacts(run_id)}
    assert {"recipe.yaml", "scores", "predictions", "checkpoints"} <= names
    pictures = {each.path for each in client.list_artifacts(run_id, "predictions/test")}
    assert pictures == {f"predictions/test/{domain}.png" for domain in fake_training.DOMAINS}
    table = Path(client.download_artifacts(run_id, "scores/test/iou-per-class.csv", str(tmp_path)))
    assert table.read_text().startswith("class,city,country,")
    kept = Path(client.download_artifacts(run_id, "checkpoints/step-000100.json", str(tmp_path)))
    assert json.loads(kept.read_text())["step"] == 100


def test_the_logged_model_predicts_in_a_fresh_process(killed_in_between, tmp_path: Path):
    server, listener, folder, _ = killed_in_between
    (output,) = MlflowClient(server.uri).get_run(listener.run_id).outputs.model_outputs
    assert output.step == 200
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 96, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, mlflow\n"
        f"mlflow.set_tracking_uri({server.uri!r})\n"
        f"model = mlflow.pyfunc.load_model('models:/{output.model_id}')\n"
        "assert model.metadata.signature is not None\n"
        "images = np.load('images.npy')\n"
        "first, second = model.predict(images), model.predict(images.transpose(0, 3, 1, 2))\n"
        "assert (first == second).all()\n"
        "np.save('labels.npy', first)\n"
        "try: model.predict(images[0])\n"
        "except Exception: pass\n"
        "else: raise AssertionError('the signature lets three dimensions pass')\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    labels = np.load(tmp_path / "labels.npy")
    model = build("bisenet_mini").eval()
    load_weights(model, folder.parent / "final.safetensors")
    expected = predict_logits(model, torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).argmax(1).byte().numpy()
    assert labels.dtype == np.uint8
    assert (labels == expected).mean() > 0.999


def test_a_server_that_never_answers_costs_nothing(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with silent_server() as uri:
        listener = MlflowConfig(uri, experiment="silent", wait=1, system_interval=0).build()
        began = time.perf_counter()
        listener.on_start(fake_training.start(tmp_path / "run"))
        assert time.perf_counter() - began < 5
        quickest = 1.0
        for ten in range(0, 1000, 100):
            began = time.perf_counter()
            for step in range(ten + 10, ten + 101, 10):
                listener.on_step(fake_training.step_report(step))
            quickest = min(quickest, (time.perf_counter() - began) / 10)
        # With a report every ten steps, a millisecond each is 1 % of steps that last 10 ms.
        assert quickest < 1e-3, f"{1e6 * quickest:.0f} microseconds"
        # The sender's request times out first, so that its trouble is known.
        until = time.monotonic() + 60
        while not read_json(tmp_path / "run/mlflow/state.json").get("trouble") and time.monotonic() < until:
            time.sleep(0.2)
        began = time.perf_counter()
        with pytest.warns(TrackingWarning, match="dgseg tracking replay"):
            listener.on_end(RunEnd("stopped", 1000))
        assert time.perf_counter() - began < 15
    replay(tmp_path / "run/mlflow", database)
    run = run_of(database, listener.state_dict()["key"], "silent")
    assert run.info.status == "KILLED"
    assert steps_of(database, run, "loss/total") == list(range(10, 1001, 10))
    assert replay(tmp_path / "run/mlflow", database).refused == 0
    assert steps_of(database, run, "loss/total") == list(range(10, 1001, 10)), "again changes nothing"


def test_a_run_that_is_continued_stays_one_run(tmp_path: Path, database: str, nowhere: str):
    """Stopped at 50 after a checkpoint at 30: steps 40 and 50 are trained twice and recorded once."""
    first = unheard(nowhere, experiment="continued")
    first.on_start(fake_training.start(tmp_path / "run"))
    for step in range(10, 51, 10):
        first.on_step(fake_training.step_report(step))
    kept = json.loads(json.dumps(first.state_dict()))
    with pytest.warns(TrackingWarning):
        first.on_end(RunEnd("failed", 50, reason="a worker was lost"))
    replay(tmp_path / "run/mlflow", database)
    run = run_of(database, kept["key"], "continued")
    assert run.info.status == "FAILED"
    assert run.data.tags["ended"] == "failed: a worker was lost"

    second = unheard(nowhere, experiment="continued")
    second.load_state_dict(kept)
    second.on_start(fake_training.start(tmp_path / "run", step=30))
    replay_running = Sender(tmp_path / "run/mlflow", database)
    replay_running.send()
    assert run_of(database, kept["key"], "continued").info.status == "RUNNING"
    for step in range(40, 81, 10):
        second.on_step(fake_training.step_report(step))
    with pytest.warns(TrackingWarning):
        second.on_end(RunEnd("finished", 80))
    replay(tmp_path / "run/mlflow", database)
    run = run_of(database, kept["key"], "continued")
    assert run.info.status == "FINISHED"
    assert steps_of(database, run, "loss/total") == list(range(10, 81, 10))


def test_the_doctor_finds_the_server_and_leaves_no_trace(killed_in_between):
    server, _, _, _ = killed_in_between
    before = len(MlflowClient(server.uri).search_experiments())
    finding = services.tracking(server.uri)
    assert (finding.status, finding.detail) == ("ok", "answers and takes runs")
    assert len(MlflowClient(server.uri).search_experiments()) == before


@pytest.mark.parametrize("folder", ["same", "none"])
def test_a_run_is_known_by_its_folder_or_by_its_checkpoints(tmp_path: Path, nowhere: str, folder: str):
    first = unheard(nowhere)
    first.on_start(fake_training.start(tmp_path / "first"))
    state = first.state_dict()
    second = unheard(nowhere)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        first.on_end(RunEnd("failed", 0))
        if folder == "same":  # killed before its first checkpoint
            second.on_start(fake_training.start(tmp_path / "first"))
        else:  # the folder of the spool was lost, a checkpoint not
            second.load_state_dict(state)
            second.on_start(fake_training.start(tmp_path / "second"))
        assert second.state_dict()["key"] == state["key"]
        second.on_end(RunEnd("failed", 0))
        third = unheard(nowhere)
        third.on_start(fake_training.start(tmp_path / "third"))
        assert third.state_dict()["key"] != state["key"]
        third.on_end(RunEnd("failed", 0))


def test_another_recipe_under_an_old_name_is_another_run(tmp_path: Path, nowhere: str):
    first, second = unheard(nowhere), unheard(nowhere)
    start = fake_training.start(tmp_path / "run")
    other = replace(start, recipe=replace(start.recipe, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        first.on_start(start)
        first.on_end(RunEnd("failed", 0))
        second.on_start(other)
        second.on_end(RunEnd("failed", 0))
    old, new = first.state_dict()["key"], second.state_dict()["key"]
    assert old != new
    assert read_json(tmp_path / f"run/mlflow-{old[:8]}/run.json")["key"] == old, "what it had to send is kept"
    assert read_json(tmp_path / "run/mlflow/run.json")["key"] == new


def test_training_that_is_killed_leaves_a_whole_record(tmp_path: Path, database: str):
    """kill -9: what it had reported arrives, and the run does not seem to train for ever."""
    code = (
        "import os, sys, time\n"
        "from tests.runs.tracking import fake_training\n"
        "from dgseg.runs.tracking.listener import MlflowConfig\n"
        f"listener = MlflowConfig({database!r}, experiment='killed', system_interval=0).build()\n"
        f"listener.on_start(fake_training.start({str(tmp_path / 'run')!r}))\n"
        "for step in range(10, 101, 10): listener.on_step(fake_training.step_report(step))\n"
        "while listener.run_id is None: time.sleep(0.1)\n"
        "print(listener._sender.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    until = time.monotonic() + 60
    while Path(f"/proc/{done.stdout.strip()}").exists() and time.monotonic() < until:
        time.sleep(0.2)
    key = read_json(tmp_path / "run/mlflow/run.json")["key"]
    run = run_of(database, key, "killed")
    assert run.info.status == "KILLED"
    assert steps_of(database, run, "loss/total") == list(range(10, 101, 10))
    replay(tmp_path / "run/mlflow", database)
    assert run_of(database, key, "killed").info.status == "KILLED", "nobody trains it"


def test_what_mlflow_refuses_is_set_aside_and_the_rest_arrives(tmp_path: Path, database: str, nowhere: str):
    listener = unheard(nowhere, experiment="refused")
    listener.on_start(fake_training.start(tmp_path / "run"))
    with pytest.warns(TrackingWarning):
        listener.on_end(RunEnd("stopped", 0))
    spool = tmp_path / "run/mlflow"
    writer = Writer(spool, "training")
    for step, name in enumerate(["good", "bad: {}", "good", "good"]):
        writer.append({"op": "metrics", "step": step, "time": step, "values": {name: 1.0}})
    sender = replay(spool, database)
    assert sender.refused == 1
    assert "bad: {}" in (spool / "refused.jsonl").read_text()
    assert steps_of(database, sender.run, "good") == [0, 2, 3]


def test_a_spool_is_sent_by_one_process(tmp_path: Path, database: str, nowhere: str):
    listener = unheard(nowhere, experiment="locked")
    listener.on_start(fake_training.start(tmp_path / "run"))
    with pytest.warns(TrackingWarning):
        listener.on_end(RunEnd("finished", 0))
    with (tmp_path / "run/mlflow" / LOCK).open("w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="by a run that is alive"):
            replay(tmp_path / "run/mlflow", database)
    replay(tmp_path / "run/mlflow", database)
    assert run_of(database, listener.state_dict()["key"], "locked").info.status == "FINISHED"


def test_a_folder_that_cannot_be_written_is_told_and_survived(tmp_path: Path):
    (tmp_path / "file").write_text("")
    listener = MlflowConfig(f"sqlite:///{tmp_path / 'mlflow.db'}").build()
    with pytest.warns(TrackingWarning, match="on_start"):
        listener.on_start(fake_training.start(tmp_path / "file"))
    listener.on_step(fake_training.step_report(10))
    listener.on_scores(fake_training.scores(10, final=True))
    listener.on_checkpoint(fake_training.checkpoint(10))
    listener.on_end(RunEnd("finished", 10))
    assert listener.state_dict() is not None


def test_without_mlflow_the_remedy_is_named():
    code = "import sys; sys.modules['mlflow'] = None; import dgseg.runs.tracking"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ImportError" in done.stderr
    assert "pip install 'dgseg[train]'" in done.stderr


def test_the_process_that_sends_has_no_torch():
    """Three of its five seconds of start-up, beside the run that it records."""
    code = "import sys, dgseg.runs.tracking.follow; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
