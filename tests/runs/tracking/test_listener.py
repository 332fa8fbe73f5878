"""A run's way into a real MLflow: servers that die, that never answer, that are down; processes that are killed."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from pyarrow import fs

from dgseg.cli.doctor import services
from dgseg.models import build, load_weights
from dgseg.models.inference import predict_logits
from dgseg.models.weights.loading import save_weights
from dgseg.runs.tracking import content, files
from dgseg.runs.tracking import listener as listening
from dgseg.runs.tracking.files import read_json
from dgseg.runs.tracking.listener import MlflowConfig
from dgseg.runs.tracking.mlflow import TrackingWarning
from dgseg.runs.tracking.shipper import RUN_KEY, Shipper, replay
from dgseg.training import journal
from dgseg.training.listener import RunEnd
from dgseg.training.remote_storage import ArrowStorage
from dgseg.training.storage import open_storage
from tests.runs.tracking import fake_training
from tests.runs.tracking.fake_training import Recorded
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


def unheard(uri: str, **options: object) -> Recorded:
    """Whose server is down from beginning to end."""
    return Recorded(MlflowConfig(uri, wait=0, system_interval=0, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def killed_in_between(tmp_path_factory: pytest.TempPathFactory):
    """A whole run, whose server dies by SIGKILL between steps 100 and 110 and is back at 200."""
    folder = tmp_path_factory.mktemp("server")
    run, server = folder / "run", Server(folder)
    save_weights(build("bisenet_mini"), folder / "final.safetensors")
    server.start()
    try:
        listener = Recorded(MlflowConfig(server.uri, parent="0" * 32, tags={"sweep": "none"}, system_interval=0.5))
        listener.on_start(fake_training.start(run))
        slowest = 0.0
        for step in range(10, 201, 10):
            if step == 110:
                until = time.monotonic() + 60
                while listener.mlflow.run_id is None and time.monotonic() < until:
                    time.sleep(0.1)
                time.sleep(1)
                server.kill()
            began = time.perf_counter()
            listener.on_step(fake_training.step_report(step, **{"gap/seen": float("nan") if step == 50 else 1.0}))
            slowest = max(slowest, time.perf_counter() - began)
            if step == 100:
                listener.on_scores(fake_training.scores(step, final=False))
                listener.on_checkpoint(fake_training.checkpoint(step))
        listener.on_scores(fake_training.scores(200, final=True, folder=run))
        server.start()
        shutil.copy(folder / "final.safetensors", run / "weights.safetensors")
        listener.on_end(RunEnd("finished", 200, run / "weights.safetensors"))
        yield server, listener, run, slowest
    finally:
        server.kill()


def test_every_point_arrives_once_though_the_server_died(killed_in_between):
    server, listener, _, slowest = killed_in_between
    run = run_of(server.uri, listener.key)
    assert run.info.status == "FINISHED"
    for metric in ("Loss/total", "Loss/ce", "Training/lr", "Training/images_per_second"):
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
    run = run_of(server.uri, listener.key)
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
    state = read_json(folder / "mlflow" / files.STATE)
    assert state["metrics.jsonl"] == (folder / "metrics.jsonl").stat().st_size, "nothing waits any more"
    assert state["run_id"] == run.info.run_id == listener.mlflow.run_id
    assert run.info.run_id in listener.mlflow.how_to_open()


def test_tables_and_pictures_are_artifacts(killed_in_between, tmp_path: Path):
    server, listener, _, _ = killed_in_between
    client = MlflowClient(server.uri)
    run_id = listener.mlflow.run_id
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
    (output,) = MlflowClient(server.uri).get_run(listener.mlflow.run_id).outputs.model_outputs
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
        listener = Recorded(MlflowConfig(uri, experiment="silent", wait=1, system_interval=0))
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
        # The shipper's request times out first, so that its trouble is known.
        until = time.monotonic() + 60
        while not read_json(tmp_path / "run/mlflow/state.json").get("trouble") and time.monotonic() < until:
            time.sleep(0.2)
        began = time.perf_counter()
        with pytest.warns(TrackingWarning, match="dgseg tracking replay"):
            listener.on_end(RunEnd("stopped", 1000))
        assert time.perf_counter() - began < 15
    replay(tmp_path / "run", database)
    run = run_of(database, listener.key, "silent")
    assert run.info.status == "KILLED"
    assert steps_of(database, run, "Loss/total") == list(range(10, 1001, 10))
    assert replay(tmp_path / "run/mlflow/", database).state["refused"] == 0
    assert steps_of(database, run, "Loss/total") == list(range(10, 1001, 10)), "again changes nothing"


def test_a_run_that_is_continued_stays_one_run(tmp_path: Path, database: str, nowhere: str):
    """Stopped at 50 after a checkpoint at 30: steps 40 and 50 are trained twice and recorded once."""
    first = unheard(nowhere, experiment="continued")
    first.on_start(fake_training.start(tmp_path / "run"))
    for step in range(10, 51, 10):
        first.on_step(fake_training.step_report(step))
    kept = json.loads(json.dumps(first.journal.state_dict()))
    with pytest.warns(TrackingWarning):
        first.on_end(RunEnd("failed", 50, reason="a worker was lost"))
    replay(tmp_path / "run", database)
    run = run_of(database, kept["key"], "continued")
    assert run.info.status == "FAILED"
    assert run.data.tags["ended"] == "failed: a worker was lost"

    second = unheard(nowhere, experiment="continued")
    second.journal.load_state_dict(kept)
    second.on_start(fake_training.start(tmp_path / "run", step=30))
    Shipper(tmp_path / "run", database).send()
    assert run_of(database, kept["key"], "continued").info.status == "RUNNING"
    for step in range(40, 81, 10):
        second.on_step(fake_training.step_report(step))
    with pytest.warns(TrackingWarning):
        second.on_end(RunEnd("finished", 80))
    replay(tmp_path / "run", database)
    run = run_of(database, kept["key"], "continued")
    assert run.info.status == "FINISHED"
    assert steps_of(database, run, "Loss/total") == list(range(10, 81, 10))


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
    state = first.journal.state_dict()
    second = unheard(nowhere)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        first.on_end(RunEnd("failed", 0))
        if folder == "same":  # killed before its first checkpoint
            second.on_start(fake_training.start(tmp_path / "first"))
        else:  # the folder was lost, a checkpoint not
            second.journal.load_state_dict(state)
            second.on_start(fake_training.start(tmp_path / "second"))
        assert second.key == state["key"]
        second.on_end(RunEnd("failed", 0))
        third = unheard(nowhere)
        third.on_start(fake_training.start(tmp_path / "third"))
        assert third.key != state["key"]
        third.on_end(RunEnd("failed", 0))


def test_another_recipe_under_an_old_name_is_another_run(tmp_path: Path, database: str, nowhere: str):
    first, second = (unheard(nowhere, experiment="renamed") for _ in range(2))
    start = fake_training.start(tmp_path / "run")
    other = replace(start, recipe=replace(start.recipe, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        first.on_start(start)
        first.on_step(fake_training.step_report(10))
        first.on_end(RunEnd("failed", 10))
        second.on_start(other)
        second.on_step(fake_training.step_report(20))
        second.on_end(RunEnd("stopped", 20))
    assert first.key != second.key
    counted = journal.entries(open_storage(tmp_path / "run"))
    assert [entry["step"] for entry in counted] == [0, 20, 20], "the other's lines do not count"
    replay(tmp_path / "run", database)
    old, new = (run_of(database, each.key, "renamed") for each in (first, second))
    assert (old.info.status, new.info.status) == ("FAILED", "KILLED")
    assert (old.data.params["seed"], new.data.params["seed"]) == ("0", "1")
    assert steps_of(database, old, "Loss/total") == [10], "what it had to send is kept, and sent"
    assert steps_of(database, new, "Loss/total") == [20]


def test_training_that_is_killed_leaves_a_whole_record(tmp_path: Path, database: str):
    """kill -9: what it had reported arrives, and the run does not seem to train for ever."""
    code = (
        "import os, sys, time\n"
        "from tests.runs.tracking import fake_training\n"
        "from dgseg.runs.tracking.listener import MlflowConfig\n"
        f"listener = fake_training.Recorded(MlflowConfig({database!r}, experiment='killed', system_interval=0))\n"
        f"listener.on_start(fake_training.start({str(tmp_path / 'run')!r}))\n"
        "for step in range(10, 101, 10): listener.on_step(fake_training.step_report(step))\n"
        "while listener.mlflow.run_id is None: time.sleep(0.1)\n"
        "print(listener.key, listener.mlflow._shipper.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    key, shipper = done.stdout.split()
    until = time.monotonic() + 60
    while Path(f"/proc/{shipper}").exists() and time.monotonic() < until:
        time.sleep(0.2)
    run = run_of(database, key, "killed")
    assert run.info.status == "KILLED"
    assert steps_of(database, run, "Loss/total") == list(range(10, 101, 10))
    replay(tmp_path / "run", database)
    assert run_of(database, key, "killed").info.status == "KILLED", "nobody trains it"


def test_what_mlflow_refuses_is_set_aside_and_the_rest_arrives(tmp_path: Path, database: str, nowhere: str):
    listener = unheard(nowhere, experiment="refused", tags={"bad\t{}": "no name of a tag", "good": "yes"})
    listener.on_start(fake_training.start(tmp_path / "run"))
    for step, value in enumerate((1.0, 2.0, 3.0), 1):
        listener.on_step(fake_training.step_report(step, **{"odd/näme {}": value}))
    with pytest.warns(TrackingWarning):
        listener.on_end(RunEnd("stopped", 3))
    shipper = replay(tmp_path / "run", database)
    assert shipper.state["refused"] == 1
    refused = json.loads((tmp_path / "run/mlflow/refused.jsonl").read_text())
    assert (refused["what"], "bad" in refused["reason"]) == ("tags", True)
    run = run_of(database, listener.key, "refused")
    assert run.data.tags["good"] == "yes"
    assert steps_of(database, run, "odd/n_me __") == [1, 2, 3], "names become what MLflow takes"


def test_points_that_mlflow_refuses_do_not_take_others_along(
    tmp_path: Path, database: str, nowhere: str, monkeypatch: pytest.MonkeyPatch
):
    listener = unheard(nowhere, experiment="points")
    listener.on_start(fake_training.start(tmp_path / "run"))
    for step in (1, 2, 3):
        listener.on_step(fake_training.step_report(step, **{"gap/bad": 1.0} if step == 2 else {}))
    with pytest.warns(TrackingWarning):
        listener.on_end(RunEnd("stopped", 3))
    monkeypatch.setattr(content, "_safe", lambda name: name.replace("bad", "bad: {}"))
    shipper = replay(tmp_path / "run", database)
    assert shipper.state["refused"] == 1
    assert "bad: {}" in (tmp_path / "run/mlflow/refused.jsonl").read_text()
    assert steps_of(database, shipper.run(), "Loss/total") == [1, 2, 3]


def test_lines_of_an_older_journal_are_passed_over(tmp_path: Path, database: str, nowhere: str):
    listener, start = unheard(nowhere, experiment="older"), fake_training.start(tmp_path / "run", step=10)
    old = {"kind": "step", "step": 10, "losses": {"loss": 1.0}, "metrics": {}, "images_per_second": 1.0}
    (tmp_path / "run/metrics.jsonl").write_text('{"kind": "start", "step": 0}\n' + json.dumps(old) + "\nno JSON\n")
    listener.on_start(start)
    listener.on_step(fake_training.step_report(20))
    with pytest.warns(TrackingWarning):
        listener.on_end(RunEnd("stopped", 20))
    replay(tmp_path / "run", database)
    assert steps_of(database, run_of(database, listener.key, "older"), "Loss/total") == [20]


def test_a_run_is_sent_by_one_process(tmp_path: Path, database: str, nowhere: str):
    listener = unheard(nowhere, experiment="locked")
    listener.on_start(fake_training.start(tmp_path / "run"))
    with pytest.warns(TrackingWarning):
        listener.on_end(RunEnd("finished", 0))
    with (tmp_path / "run/mlflow/lock").open("w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="by a run that is alive"):
            replay(tmp_path / "run", database)
    replay(tmp_path / "run", database)
    assert run_of(database, listener.key, "locked").info.status == "FINISHED"


@pytest.mark.parametrize("name", ["mlflow/lock", "mlflow/shipper.log", "mlflow/refused.jsonl", "metrics.jsonl"])
def test_a_link_in_a_run_s_folder_is_not_followed(tmp_path: Path, database: str, nowhere: str, name: str):
    (tmp_path / "run/mlflow").mkdir(parents=True)
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    listener = unheard(nowhere, experiment="links", tags={"bad\t{}": "is refused"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrackingWarning)
        listener.on_start(fake_training.start(tmp_path / "run"))
        listener.on_step(fake_training.step_report(1))
        listener.on_end(RunEnd("stopped", 1))
        with suppress(OSError):
            replay(tmp_path / "run", database)
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_folder_from_elsewhere_sends_nothing_of_this_machine(tmp_path: Path, database: str, nowhere: str):
    (tmp_path / "secret.png").write_text("secret")
    run = tmp_path / "run"
    listener = unheard(nowhere, experiment="elsewhere")
    listener.on_start(fake_training.start(run))
    listener.on_scores(replace(fake_training.scores(5, final=True), pictures={"../secret": Path("x.png")}))
    (run / "weights.safetensors").symlink_to(tmp_path / "secret.png")
    with pytest.warns(TrackingWarning):
        listener.on_end(RunEnd("finished", 5, run / "weights.safetensors"))
    shipper = replay(run, database)
    assert shipper.state["refused"] == 2
    client, run_id = MlflowClient(database), shipper.run().info.run_id
    assert "predictions" not in {each.path for each in client.list_artifacts(run_id)}
    assert not client.get_run(run_id).outputs.model_outputs


def test_a_run_behind_a_uri_is_sent_from_copies(
    tmp_path: Path, database: str, nowhere: str, monkeypatch: pytest.MonkeyPatch
):
    files_there = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    folder = ArrowStorage(files_there, "bucket/run", "test://bucket/run")
    for module in (journal, listening):
        monkeypatch.setattr(module, "run_folder", lambda *_: folder)
    monkeypatch.setattr(journal.tempfile, "gettempdir", lambda: str(tmp_path / "here"))
    save_weights(build("bisenet_mini"), tmp_path / "weights.safetensors")
    listener = unheard(nowhere, experiment="bucket")
    listener.on_start(fake_training.start("test://bucket/run"))
    listener.on_scores(fake_training.scores(5, final=True, folder=tmp_path))
    with pytest.warns(TrackingWarning, match="dgseg tracking replay"):
        listener.on_end(RunEnd("finished", 5, tmp_path / "weights.safetensors"))
    record = journal.record_folder(folder)
    assert {"recipe.yaml", "fog.png", "weights.safetensors"} <= {path.name for path in record.iterdir()}
    shipper = replay(record, database)
    assert shipper.state["refused"] == 0
    client, run = MlflowClient(database), run_of(database, listener.key, "bucket")
    assert {"recipe.yaml", "predictions"} <= {each.path for each in client.list_artifacts(run.info.run_id)}
    assert len(run.outputs.model_outputs) == 1
    assert {path.name for path in record.iterdir()} == {"metrics.jsonl", "mlflow"}, "copies go when they have arrived"
    assert folder.read("metrics.jsonl") == (record / "metrics.jsonl").read_bytes()


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


def test_the_journal_has_one_name():
    assert files.JOURNAL == journal.FILE


def test_the_process_that_sends_has_no_torch():
    """Three of its five seconds of start-up, beside the run that it records."""
    code = "import sys, dgseg.runs.tracking.shipper; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
