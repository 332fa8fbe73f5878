"""Runs from start to end, stopped, killed, resumed, and refused."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dgseg.data.dataset import CorruptFile
from dgseg.data.sample import Sample
from dgseg.data.streets import Streets
from dgseg.models import build, load_weights, save_weights
from dgseg.objectives import CrossEntropy, FocalDice
from dgseg.recipes import from_yaml, named, override
from dgseg.training import Listener, NonFiniteLoss, Progress, RunConfig, RunResult, journal, train
from dgseg.training.checkpoint import CheckpointError
from dgseg.training.identity import dataset_identity
from dgseg.training.journal import FILE, Journal
from dgseg.training.listener import RunEnd, ScoreReport, StepReport
from dgseg.training.saver import WEIGHTS
from dgseg.training.storage import LocalStorage
from tests.training.harness import RECORDED, Record, in_processes, tiny

LEAN = {"data.validation": [], "data.test": []}


def go(storage: Path, changes: dict[str, Any] | None = None, *listeners: Listener, **run: Any) -> RunResult:
    config = RunConfig(**{"storage": str(storage), "name": "run", "device": "cpu", **run})
    return train(tiny(changes), config, listeners=listeners)


def weights(result: RunResult) -> dict[str, torch.Tensor]:
    assert result.weights is not None
    return load_file(result.weights)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run that nothing disturbed, in a process of its own: what a process has done before can show in
    the last digits of what its libraries compute next."""
    return in_one_go(tmp_path_factory.mktemp("whole"))


class Ear(Listener):
    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.scores: list[ScoreReport] = []
        self.ends: list[RunEnd] = []

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_scores(self, report: ScoreReport) -> None:
        self.scores.append(report)

    def on_end(self, end: RunEnd) -> None:
        self.ends.append(end)


def test_a_run_leaves_weights_scores_and_a_picture(tmp_path: Path) -> None:
    ear = Ear()
    result = go(tmp_path, {"train.evaluate_every": 10}, ear, log_every=5)
    assert (result.status, result.step) == ("finished", 20)
    assert [report.step for report in ear.steps] == [5, 10, 15, 20]
    assert all(report.losses["loss"] == pytest.approx(sum(list(report.losses.values())[1:])) for report in ear.steps)
    assert ear.steps[-1].metrics["lr"] < ear.steps[0].metrics["lr"]
    assert [(report.step, report.final) for report in ear.scores] == [(10, False), (20, False), (20, True)]
    assert set(ear.scores[-1].scores) == {"fog", "city"}
    assert [(end.status, end.step) for end in ear.ends] == [("finished", 20)]
    folder = tmp_path / "run"
    summary = json.loads((folder / "result.json").read_text())
    assert summary["scores"]["fog/miou"] == ear.scores[-1].scores["fog"]["miou"]
    assert summary["datasets"]["source0"]["samples"] == 40
    assert (folder / "panel.png").read_bytes()[:4] == b"\x89PNG"
    load_weights(build("bisenet_mini"), folder / "weights.safetensors")


def test_a_run_explains_where_its_time_went(tmp_path: Path) -> None:
    ear, shown = Ear(), io.StringIO()
    began = time.perf_counter()
    go(tmp_path, {"data.test": []}, ear, Journal(), Progress(shown), log_every=5)
    seconds = time.perf_counter() - began
    for report in ear.steps:
        assert set(report.timings) == {"data", "forward", "backward", "exchange", "optimizer", "reports"}
        assert report.images_per_second == pytest.approx(5 * 4 / sum(report.timings.values()))
        assert min(report.timings["data"], report.timings["forward"], report.timings["backward"]) > 0
        assert report.memory > 100e6, "torch alone takes more"
    totals = ear.ends[-1].timings
    assert 0.9 * seconds < sum(totals.values()) < seconds
    assert sum(report.timings["backward"] for report in ear.steps) == pytest.approx(totals["backward"])
    assert min(totals["start"], totals["scoring"], totals["saving"]) > 0
    lines = [json.loads(line) for line in (tmp_path / "run" / FILE).read_text().splitlines()]
    assert [line["timings"] for line in lines if line["kind"] == "step"] == [dict(each.timings) for each in ear.steps]
    assert lines[-1]["timings"] == dict(totals)
    assert "for 20 steps" in shown.getvalue()
    assert "% forward and backward" in shown.getvalue()


def test_a_profile_is_a_trace_of_as_many_steps_as_asked(tmp_path: Path) -> None:
    shown = io.StringIO()
    go(tmp_path, LEAN | {"schedule.steps": 8, "schedule.warmup": 1}, Progress(shown), profile=2)
    (trace,) = (tmp_path / "run" / "profile").iterdir()
    assert trace.name == "step-00000003-rank0.trace.json"
    assert str(trace) in shown.getvalue()
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"step 3", "step 4", "aten::convolution"} <= names
    assert not names & {"step 2", "step 5"}


def test_what_a_stopped_run_goes_on_to_is_what_it_would_have_been(tmp_path: Path) -> None:
    whole = weights(go(tmp_path / "whole", LEAN))
    for stop in (1, 9, 10):
        assert go(tmp_path, LEAN, stop_after=stop).status == "stopped"
    found = weights(go(tmp_path, LEAN))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


TRAINS = """
import sys
sys.path[:0] = {path!r}
from dgseg.training import Listener, RunConfig, train
from tests.training.harness import tiny
class Slow(Listener):
    def on_step(self, report):
        print("step", report.step, flush=True)
        if report.step >= 3:
            import time; time.sleep({pause})
run = RunConfig(storage={storage!r}, name="run", device="cpu", log_every=1)
print(train(tiny({changes!r}), run, listeners=[Slow()]).status)
"""


def training(storage: Path, pause: float, **changes: Any) -> subprocess.Popen[str]:
    code = TRAINS.format(path=sys.path, changes=LEAN | changes, storage=str(storage), pause=pause)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def in_one_go(storage: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Begins, or goes on with, the run there, in a process of its own."""
    said, error = training(storage, 0.0, **changes).communicate(timeout=300)
    assert said.endswith("finished\n"), error[-3000:]
    return load_file(storage / "run" / "weights.safetensors")


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for said in process.stdout:
        if said.strip() == line:
            return
    raise AssertionError(f"it never said {line!r}: {process.communicate()[1][-3000:]}")


def test_killed_between_any_two_steps(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    """SIGKILL at steps 4 and 12, with checkpoints every 3: the same bits at the end."""
    for step in (4, 12):
        process = training(tmp_path, 0.2, **{"train.save_every": 3})
        wait_for(process, f"step {step}")
        process.kill()
        assert process.wait() == -signal.SIGKILL
    found = in_one_go(tmp_path, **{"train.save_every": 3})
    assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_saves_first(tmp_path: Path, number: signal.Signals, whole: dict[str, torch.Tensor]) -> None:
    process = training(tmp_path, 0.2)
    wait_for(process, "step 4")
    process.send_signal(number)
    said, error = process.communicate(timeout=120)
    assert process.returncode == 0, error[-2000:]
    assert said.split()[-1] == "stopped"
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert int(saved.name.removeprefix("step-")) <= 6, "it stopped at once, and saved where it stopped"
    found = in_one_go(tmp_path)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_listener_may_stop_it(tmp_path: Path) -> None:
    class Enough(Listener):
        asked = 0

        def should_stop(self) -> bool:
            self.asked += 1
            return self.asked > 5

    assert go(tmp_path, LEAN, Enough()).step == 6


def test_a_loss_that_is_no_number_stops_it_before_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = CrossEntropy.forward, []

    def bad(self: CrossEntropy, *arguments: Any) -> dict[str, torch.Tensor]:
        calls.append(arguments[1].ids)
        terms = forward(self, *arguments)
        return {name: term * torch.nan for name, term in terms.items()} if len(calls) == 7 else terms

    monkeypatch.setattr(CrossEntropy, "forward", bad)
    ear = Ear()
    with pytest.raises(NonFiniteLoss, match="step 6: the loss is NaN or infinite") as caught:
        go(tmp_path, LEAN | {"train.save_every": 3}, ear)
    assert all(name in str(caught.value) for name in ("ube = nan", "gap = ", *calls[6]))
    assert sorted(each.name for each in (tmp_path / "run/checkpoints").glob("step-*")) == [
        "step-00000003",
        "step-00000006",
    ]
    assert ear.ends[-1].status == "failed"
    state = load_file(tmp_path / "run/checkpoints/step-00000006/model.safetensors")
    assert all(bool(value.isfinite().all()) for value in state.values())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """The loss shows it a step later, and a run would go on from them for ever."""
    changes = {"optimizer.lr": 1e300, "schedule.warmup": 0}
    with pytest.raises(NonFiniteLoss, match="step 1: the weights are NaN or infinite"):
        go(tmp_path, LEAN | changes | {"train.save_every": 1})
    with pytest.raises(NonFiniteLoss, match="step 1: the weights are NaN or infinite"):
        go(tmp_path, LEAN | changes | {"schedule.steps": 1})
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    assert not (tmp_path / "run" / WEIGHTS).exists()


def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = weights(go(tmp_path / "whole", LEAN))
    go(tmp_path, LEAN | {"train.save_every": 5}, stop_after=12)
    newest = tmp_path / "run/checkpoints/step-00000012/state.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    found = weights(go(tmp_path, LEAN | {"train.save_every": 5}))
    assert "step-00000012" in caplog.text
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_two_at_once(tmp_path: Path) -> None:
    process = training(tmp_path, 60)
    try:
        wait_for(process, "step 1")
        with pytest.raises(ValueError, match=r"another run works on .*run: .*process \d+"):
            go(tmp_path, LEAN)
    finally:
        process.kill()
        process.communicate()


def test_a_name_belongs_to_one_recipe(tmp_path: Path) -> None:
    go(tmp_path, LEAN, stop_after=1)
    with pytest.raises(ValueError, match=r"belongs to another recipe \(.*objective.ube.alpha: 3.0 there, 4.0 here"):
        go(tmp_path, LEAN | {"objective.ube.alpha": 4})


def test_a_run_resumes_under_its_recipes_new_name(tmp_path: Path) -> None:
    go(tmp_path, LEAN, stop_after=1)
    run = RunConfig(storage=str(tmp_path), name="run", device="cpu", stop_after=2)
    ear = Ear()
    assert train(replace(tiny(LEAN), name="renamed"), replace(run, log_every=1), listeners=[ear]).step == 2
    assert [report.step for report in ear.steps] == [2], "it resumed"


def test_a_name_is_free_until_something_is_saved(tmp_path: Path) -> None:
    """A wrong path is told, mended and given again: the mistake must not own the name."""
    with pytest.raises((ValueError, OSError), match="nowhere"):
        go(tmp_path, LEAN | {"model.weights": "/nowhere.safetensors"})
    assert go(tmp_path, LEAN, stop_after=1).step == 1
    (tmp_path / "run/checkpoints/step-00000001/manifest.json").write_text("damaged")
    with pytest.raises(ValueError, match="belongs to another recipe"):
        go(tmp_path, LEAN | {"objective.ube.alpha": 4})


def test_a_run_goes_on_by_its_own_saved_recipe(tmp_path: Path) -> None:
    """Which says 4.0 where the first command said 4."""
    recipe = tiny(LEAN)
    whole_number: Any = 4
    recipe = replace(
        recipe, objective={**recipe.objective, "ube": replace(recipe.objective["ube"], alpha=whole_number)}
    )
    config = RunConfig(storage=str(tmp_path), name="run", device="cpu", stop_after=1)
    train(recipe, config)
    saved = from_yaml((tmp_path / "run/recipe.yaml").read_text())
    assert train(saved, replace(config, stop_after=2)).step == 2


def test_a_full_disk_is_told_by_the_checkpoint_and_not_by_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(aside: Path, target: Path) -> None:
        if target.name == WEIGHTS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        place(aside, target)

    place = LocalStorage._publish

    def no_room(descriptor: int, data: bytes) -> int:
        if bytes(data).startswith(b'{"kind"'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    write = os.write
    monkeypatch.setattr(LocalStorage, "_publish", staticmethod(full))
    monkeypatch.setattr(journal.os, "write", no_room)
    with pytest.raises(CheckpointError, match=r"all 20 steps are trained .*\(No space left on device\); make room"):
        go(tmp_path, LEAN, Journal())
    assert "metrics.jsonl could not be written (No space left on device)" in caplog.text
    monkeypatch.undo()
    assert go(tmp_path, LEAN, Journal()).status == "finished"
    assert json.loads((tmp_path / "run" / FILE).read_text().splitlines()[-1])["status"] == "finished"


def test_a_file_that_cannot_be_read_does_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    """The loader replaces it; the data set's digest must not stumble over it first."""

    class Broken(Streets):
        def __getitem__(self, index: int) -> Sample:
            if index == 0:
                raise CorruptFile("0.png", "cannot be read")
            return super().__getitem__(index)

    whole, broken = (kind("game", "train", size=(64, 96), length=20) for kind in (Streets, Broken))
    assert dataset_identity("", broken)["samples"] == 20
    assert dataset_identity("", broken)["digest"] != dataset_identity("", whole)["digest"]


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"train.save_every": 0}, {}, "train.save_every is 0; it must be at least 1"),
        ({"train.evaluate_every": 0}, {}, "train.evaluate_every is 0"),
        ({"train.accumulate": 0}, {}, "train.accumulate is 0"),
        ({"train.clip": 0.0}, {}, "train.clip is 0.0, and nothing would be learned"),
        ({}, {"log_every": 0}, "log_every is 0; it must be at least 1 step"),
        ({}, {"name": "../elsewhere"}, "is no name of a run"),
        ({}, {"stop_after": 0}, "stop_after is 0"),
        ({"train.accumulate": 3}, {}, r"data.batch_size is 4: it must be a multiple of 1 workers × 3"),
        ({"data.sources": []}, {}, "data.sources is empty"),
        ({"data.validation": ["streets=fog@test,size=64x96"]}, {}, "fog: scored at the end and used for selection"),
        ({"data.protocol": "offical"}, {}, "there is no protocol 'offical'; take"),
        ({"schedule.steps": 0}, {}, "schedule.steps is 0"),
        ({"optimizer.head_multiple": 10.0}, {}, "no parameter of bisenet_mini begins with 'backbone.'"),
        ({"model.trainable": ["*head*"]}, {}, r"trains \*head\* alone, in a model whose other weights are random: say"),
        ({"model.weights": "/nowhere.safetensors"}, {}, "nowhere"),
        ({"train.ema": 1.5}, {}, "train.ema is the decay"),
        ({}, {"strategy": "fsdp"}, "fsdp needs several workers"),
        ({}, {"deepspeed": "x.json"}, "needs the strategy deepspeed"),
        ({"data.protocol": "paper-daformer"}, {}, "says nothing about 'streets'"),
    ],
)
def test_refused_before_anything_is_trained(
    tmp_path: Path, changes: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    ear = Ear()
    with pytest.raises((ValueError, OSError), match=message):
        go(tmp_path, changes, ear, **config)
    assert not ear.steps


def test_a_pattern_that_fits_no_parameter_is_refused(tmp_path: Path) -> None:
    recipe = tiny()
    weights = tmp_path / "weights.safetensors"
    save_weights(build(recipe.model.name, **recipe.model.options), weights)
    partly = override(recipe, {"model.weights": str(weights), "model.trainable": ["nothing.*"]})
    with pytest.raises(ValueError, match=r"'nothing\.\*' is the name of no parameter"):
        train(partly, RunConfig(storage=str(tmp_path), device="cpu"))


def test_what_is_adapted_to_is_not_scored(tmp_path: Path) -> None:
    target = "streets=fog@train,use=adaptation,size=64x96,length=8"
    scored = "streets=fog@train,use=oracle,size=64x96,length=3"
    for where in ("data.test", "data.validation"):
        changes = {"data.target.source": target, "data.validation": [], "data.test": [], where: [scored]}
        recipe = override(named("realtime-streets"), changes)
        with pytest.raises(ValueError, match=r"streets/fog/0/0 and 2 more are images of data.target.source too"):
            train(recipe, RunConfig(storage=str(tmp_path), name="run", device="cpu"))


def test_hardness_without_a_loss_of_images_is_refused(tmp_path: Path) -> None:
    """It would draw as if it were not there."""
    recipe = replace(tiny(), objective={"focal_dice": FocalDice.Config()})
    assert recipe.sampler.hardness is not None
    ear = Ear()
    with pytest.raises(ValueError, match="no objective of this recipe tells it: add"):
        train(recipe, RunConfig(storage=str(tmp_path), name="run", device="cpu"), listeners=[ear])
    assert not ear.steps


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="a GPU is asked for and torch sees none"):
        train(tiny(LEAN), RunConfig(device="cuda"))


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    with pytest.raises(ValueError, match="cannot be written"):
        go(file, LEAN)


STRETCH = RECORDED + "answer = recorded(recipe, storage, stop_after=stop)\n"


def test_another_number_of_workers_goes_on_with_the_same_samples(tmp_path: Path) -> None:
    """2 → 1 → 2 workers, as an elastic run has them."""
    recipe = tiny(LEAN | {"train.precision": "float64"})
    (alone,) = in_processes(1, STRETCH, recipe=recipe, storage=str(tmp_path / "alone"), stop=None)
    drawn: list[list[str]] = []
    record: Record | None = None
    for workers, stop in ((2, 6), (1, 13), (2, None)):
        ranks = in_processes(workers, STRETCH, recipe=recipe, storage=str(tmp_path / "elastic"), stop=stop)
        record = ranks[0]
        drawn += [[each for rank in step for each in rank] for step in zip(*(r.ids for r in ranks), strict=True)]
    assert drawn == alone.ids
    assert record is not None
    assert record.weights is not None
    assert alone.weights is not None
    assert max(float((record.weights[n] - w).abs().max()) for n, w in alone.weights.items()) < 1e-9


KILLED = (
    RECORDED
    + """
import os, signal, threading
class Deadly(Listener):
    every_rank = True
    def __init__(self): self.asked = 0
    def should_stop(self):
        self.asked += 1
        if os.environ["RANK"] == victim and self.asked == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return False
answer = recorded(recipe, storage, listeners=[Deadly()], timeout=20.0)
"""
)


@pytest.mark.parametrize("victim", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_ends_the_others_and_nothing_is_lost(tmp_path: Path, victim: str) -> None:
    recipe = tiny(LEAN | {"train.precision": "float64", "train.save_every": 3})
    began = time.monotonic()
    with pytest.raises(AssertionError, match="rank"):
        in_processes(2, KILLED, recipe=recipe, storage=str(tmp_path / "killed"), victim=victim)
    assert time.monotonic() - began < 120, "the others noticed"
    (resumed, _) = in_processes(2, STRETCH, recipe=recipe, storage=str(tmp_path / "killed"), stop=None)
    (straight, _) = in_processes(2, STRETCH, recipe=recipe, storage=str(tmp_path / "straight"), stop=None)
    assert len(resumed.ids) == 14, "from the checkpoint of step 6"
    assert all(torch.equal(resumed.weights[name], w) for name, w in straight.weights.items())


SHORT = LEAN | {"schedule.steps": 4, "schedule.warmup": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"train.precision": "bf16"},
        {"train.precision": "fp16"},
        {"train.checkpoint_stages": True},
        {"train.deterministic": True, "train.channels_last": False},
        {"train.ema": 0.99, "train.clip": 0.1, "schedule.kind": "cosine"},
        pytest.param({"train.compile": True}, marks=pytest.mark.slow),
    ],
)
def test_every_switch_trains(tmp_path: Path, changes: dict[str, Any]) -> None:
    ear, plain = Ear(), Ear()
    try:
        found = weights(go(tmp_path, SHORT | changes, ear, log_every=1))
    finally:
        torch.use_deterministic_algorithms(False)
    go(tmp_path / "plain", SHORT, plain, log_every=1)
    assert len(ear.steps) == 4
    assert all(bool(value.isfinite().all()) for value in found.values())
    first, expected = ear.steps[0].losses["loss"], plain.steps[0].losses["loss"]
    narrow = changes.get("train.precision") in ("bf16", "fp16")
    assert first == pytest.approx(expected, rel=0.02 if narrow else 1e-5), "the same weights see the same images"


def test_averaged_weights_are_the_ones_that_count(tmp_path: Path) -> None:
    changes = SHORT | {"train.ema": 0.9}
    result = go(tmp_path, changes)
    final = load_file(tmp_path / "run/checkpoints/step-00000004/model.safetensors")
    averaged = load_file(tmp_path / "run/checkpoints/step-00000004/ema.safetensors")
    found = weights(result)
    assert all(torch.equal(found[name], value) for name, value in averaged.items())
    assert any(not torch.equal(final[name], value) for name, value in averaged.items())
