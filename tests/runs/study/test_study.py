"""Studies: which recipes, by which names, run once; and a small one, really trained."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dgseg.runs.study.execute as study_execute
from dgseg.cli import main
from dgseg.objectives import with_median_frequency
from dgseg.recipes import differences, named, override
from dgseg.runs.study import report
from dgseg.runs.study.execute import execute, finished, plan
from dgseg.runs.study.grids import (
    BUDGETS,
    CENTRE,
    GRIDS,
    Budget,
    Grid,
    Row,
    misaligned,
    misalignment,
    with_rows,
    within,
)
from dgseg.runs.study.report import compared
from dgseg.runs.study.statistics import SeedDifference
from dgseg.training import Listener, RunConfig, RunResult, assemble, train
from dgseg.training.listener import StepReport
from tests.training.harness import tiny


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_is_sound(name: str):
    grid = GRIDS[name]()
    labels = [row.label for row in grid.rows]
    assert len(set(labels)) == len(labels)
    assert {row.against for row in grid.rows} - {None} <= set(labels)
    assert {label for lines in grid.panels.values() for line in lines.values() for _, label in line} <= set(labels)
    small = within(grid, BUDGETS["smoke"]).rows
    for row in small:
        model = assemble.model(row.recipe.model)
        assert row.after or not row.recipe.model.trainable, "who trains a part begins with what others trained"
        before = {"model.weights": f"{row.after}/weights.safetensors"} if row.after else {}
        assemble.check(override(row.recipe, before), world_size=1)
        for config in row.recipe.objective.values():
            with_median_frequency(config, (1.0,) * 19).build(model)
        assert row.recipe.schedule.steps == (6 if row.after else 20)  # stages are shorter than what they begin with
        assert row.recipe.schedule.warmup == (0 if row.after else 1)
        assert all("length=8" in spec for spec in (*row.recipe.data.test, *row.recipe.data.validation))
        shown = row.shown or any(other.recipe == row.recipe for other in small if other.shown)
        assert bool(row.recipe.data.test) == shown, "nothing is scored that nobody sees"


def test_rows_differ_in_what_they_say():
    rows = {row.label: row.recipe for row in GRIDS["misalignment"]().rows}
    assert differences(rows["cross-entropy, 2 px"], named("erm-streets")) == {}
    assert list(differences(rows["FLEX-Seg, 8 px"], rows["FLEX-Seg, 0 px"])) == ["data.sources"]
    assert "misalignment=8," in rows["FLEX-Seg, 8 px"].data.sources[1]
    assert rows["FLEX-Seg, 8 px"].data.sources[0] == named("flexseg-streets").data.sources[0]
    sensitivity = {row.label: row.recipe for row in GRIDS["sensitivity"]().rows}
    for label, recipe in sensitivity.items():
        assert len(differences(recipe, sensitivity[CENTRE])) == (label != CENTRE)
    assert [row.label for row in GRIDS["ablation"]().rows] == [
        "baseline", "gap", "ube", "gap-ube", "gap-ube-has",
    ]  # fmt: skip


def test_rows_stay_as_different_as_their_labels_say():
    grid = GRIDS["sensitivity"]()
    assert within(grid, Budget(steps=10), {"data.batch_size": 4})
    with pytest.raises(ValueError, match=f"objective.ube.alpha: this makes '{CENTRE}' and 'α = 0' the same"):
        within(grid, Budget(steps=10), {"objective.ube.alpha": 5})
    for name in GRIDS:
        within(GRIDS[name](), Budget(steps=1))


def test_every_run_has_a_name_of_its_own():
    grid = misalignment((0.0, 2.0))
    runs = plan(grid, (0, 1))
    assert len({run.name for run in runs}) == len(runs) == 8
    assert [run.recipe.seed for run in runs] == [0] * 4 + [1] * 4  # whole seeds first
    longer = plan(within(grid, Budget(steps=10)), (0, 1))
    assert not {run.name for run in runs} & {run.name for run in longer}
    assert [run.name for run in plan(grid, (0, 1))] == [run.name for run in runs]
    assert misaligned(named("erm-streets"), 2.0) == named("erm-streets")
    for seeds in ((), (1, 1)):
        with pytest.raises(ValueError, match="at least one, each once"):
            plan(grid, seeds)


SMALL = {"schedule.steps": 4, "schedule.warmup": 1, "model.options": {"width": 8, "decoder": 8}}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def grid() -> Grid:
    base = tiny(SMALL, words="erm-streets")
    return Grid("ablation", "Does it help?", [Row("base", base), Row("ours", tiny(SMALL), "base")])


def test_a_study_from_the_first_step_to_the_report(grid: Grid, tmp_path: Path):
    runs, storage, said = plan(grid, (0, 1)), str(tmp_path / "runs"), []

    class Steps(Listener):
        heard = 0

        def on_step(self, report: StepReport) -> None:
            self.heard += report.step == report.max_steps

    steps = Steps()
    # One of the runs was begun before, and stopped in its middle.
    train(runs[1].recipe, RunConfig(name=runs[1].name, storage=storage, device="cpu", stop_after=2))
    assert finished(runs, storage) == {}
    assert execute(runs, storage, device="cpu", say=said.append, listeners=[steps]).complete
    assert steps.heard == 4
    assert [line.rpartition(":")[0] for line in said] == [
        "1/4  base, seed 0", "2/4  ours, seed 0", "3/4  base, seed 1", "4/4  ours, seed 1",
    ]  # fmt: skip
    weights = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/*/weights.safetensors")}
    said.clear()
    assert execute(runs, storage, device="cpu", say=said.append, listeners=[steps]).complete
    assert steps.heard == 4, "nothing is run twice"
    assert said == ["4 of 4 runs are finished already"]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/*/weights.safetensors")} == weights

    found = compared(grid, runs, finished(runs, storage))
    out = tmp_path / "out"
    report.write(grid, found, out, "dgseg study ablation")
    kept = json.loads((out / "results.json").read_text())
    assert [(row["label"], row["scores"]["fog/miou"]["seeds"]) for row in kept["rows"]] == [("base", 2), ("ours", 2)]
    assert kept["verdicts"] == [found.sentence("ours", found.columns[1])]
    assert "noise" in kept["verdicts"][0]
    assert kept["runs"][0]["made"]["versions"]["torch"]
    readme = (out / "README.md").read_text()
    for part in ("## dgseg study ablation", "torch 2", "commit", "seeds 0, 1, 4 steps", kept["verdicts"][0]):
        assert part in readme
    assert (out / "plot.png").stat().st_size < report.LARGEST_PLOT
    with Image.open(out / "plot.png") as picture:
        picture.load()


def spoil(folder: Path) -> None:
    """A run that was begun, whose recipe nobody can read."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("no recipe")
    (folder / "weights.safetensors").write_bytes(b"")


def test_a_run_that_fails_is_told_of_and_the_others_go_on(grid: Grid, tmp_path: Path):
    runs, storage = plan(grid, (0,)), str(tmp_path / "runs")
    spoil(tmp_path / "runs" / runs[0].name)
    outcome = execute(runs, storage, device="cpu", say=lambda _: None)
    assert not outcome.complete
    assert list(outcome.failed) == [runs[0].name]
    assert "mapping of its fields" in outcome.failed[runs[0].name]
    found = compared(grid, runs, finished(runs, storage))
    assert list(found.groups) == ["ours"]
    assert found.against == {}


def test_one_that_is_asked_to_stop_leaves_the_rest(grid: Grid, tmp_path: Path):
    class Enough(Listener):
        def should_stop(self) -> bool:
            return True

    runs, storage = plan(grid, (0, 1)), str(tmp_path / "runs")
    assert execute(runs, storage, device="cpu", say=lambda _: None, listeners=[Enough()]).stopped
    assert [each.name for each in (tmp_path / "runs").iterdir()] == [runs[0].name]


def test_runs_side_by_side(own_ray: None, grid: Grid, tmp_path: Path):
    runs, storage = plan(grid, (0,)), str(tmp_path / "runs")
    assert execute(runs, storage, jobs=2, device="cpu", say=lambda _: None).complete
    assert set(finished(runs, storage)) == {run.name for run in runs}


STUDY = """
import sys
sys.path[:0] = {path!r}
from dgseg.runs.study.execute import execute, plan
from dgseg.runs.study.grids import Grid, Row
from tests.training.harness import tiny
from tests.runs.study.test_study import LONG

if __name__ == "__main__":
    grid = Grid("g", "?", [Row("ours", tiny(LONG)), Row("plain", tiny(LONG, "erm-streets"))])
    outcome = execute(plan(grid, (0,)), {storage!r}, jobs=2, device="cpu")
    sys.exit(130 if outcome.stopped and not outcome.failed else 1)
"""
LONG: dict[str, object] = {"schedule.steps": 100_000, "train.save_every": 5, "data.validation": [], "data.test": []}


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGKILL))],
)
def test_a_study_that_is_stopped_leaves_no_process_and_what_it_saved(tmp_path: Path, number: signal.Signals):
    """Ctrl-C comes to all processes of the terminal, SIGTERM and SIGKILL to the study alone."""
    import psutil

    (tmp_path / "study.py").write_text(STUDY.format(path=sys.path, storage=str(tmp_path / "runs")))
    study = subprocess.Popen(
        [sys.executable, str(tmp_path / "study.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def saved() -> list[Path]:
        return list((tmp_path / "runs").glob("*/checkpoints/step-*[0-9]/manifest.json"))

    while len({path.parents[1] for path in saved()}) < 2:
        assert study.poll() is None, study.communicate()[0]
        time.sleep(0.05)
    processes = psutil.Process(study.pid).children(recursive=True)
    training = [each for each in processes if each.name().startswith("ray::")]
    assert len(training) >= 2
    if number == signal.SIGINT:
        os.killpg(study.pid, number)
    else:
        study.send_signal(number)
    output = study.communicate(timeout=300)[0]
    assert not psutil.wait_procs(training, timeout=60)[1]
    assert "Traceback" not in output
    assert len({path.parents[1] for path in saved()}) == 2, "the same command resumes from there"
    if number != signal.SIGKILL:
        assert study.returncode == 130, output
        assert "stopping: the runs save first" in output
        assert "ours, seed 0: stopped" in output
        assert not psutil.wait_procs(processes, timeout=60)[1]
        for run in (tmp_path / "runs").iterdir():
            end = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
            assert (end["kind"], end["status"]) == ("end", "stopped")
            assert (run / "checkpoints" / f"step-{end['step']:08d}" / "manifest.json").exists()


DETECTS = {
    "data.sources": ["streets_pairs=game@train,size=64x96,length=20"],
    "data.augment.crop": [64, 96],
    "data.validation": [],
    "data.test": ["streets=fog@test,size=64x96,length=3,unknown=true"],
    "schedule.steps": 2,
    "schedule.warmup": 0,
}


def test_some_rows_are_studied_with_what_they_stand_on():
    grid = GRIDS["detection"]()
    some = with_rows(grid, ["both-stage2"])
    assert [row.label for row in some.rows] == ["start", "energy", "both-stage1", "both-stage2"]
    whole = {run.name for run in plan(within(grid, BUDGETS["smoke"]), (0,))}
    assert {run.name for run in plan(with_rows(within(grid, BUDGETS["smoke"]), ["ODIN"]), (0,))} < whole
    with pytest.raises(ValueError, match=r"--rows 'odin' is no row of detection; there are: start; .*ODIN"):
        with_rows(grid, ["odin"])


@pytest.fixture(scope="module")
def chained() -> Grid:
    known = {name: value for name, value in DETECTS.items() if not name.startswith("data.s")} | {
        "data.augment.crop": [48, 64]
    }
    start = tiny(known | {"data.batch_size": 2}, "detect-streets-start")
    stage = tiny(DETECTS | {"data.batch_size": 2}, "detect-streets-stage1")
    return Grid(
        "detection",
        "Are unknown objects found?",
        [
            Row("start", start, shown=False),
            Row("energy", start, scorer="energy"),
            Row("Mahalanobis", start, "energy", scorer="mahalanobis"),
            Row("learned", stage, "energy", "start", "learned"),
        ],
    )


def test_stages_begin_with_each_others_weights_and_are_asked_for_unknown_objects(
    own_ray: None, chained: Grid, tmp_path: Path
):
    from dgseg.runs.study.detections import detections

    runs, storage, said = plan(chained, (0, 1)), str(tmp_path / "runs"), []
    assert len({run.name for run in runs}) == 4
    assert [run.after for run in runs[:4]] == [None, None, None, runs[0].name]
    assert execute(runs, storage, jobs=2, device="cpu", say=said.append).complete
    for seed in (0, 1):  # nothing but its head was trained, and the head is not in the start
        start, learned = (
            load_file(tmp_path / "runs" / runs[4 * seed + row].name / "weights.safetensors") for row in (0, 3)
        )
        assert all(torch.equal(start[name], learned[name]) for name in start if "num_batches" not in name)
        assert set(learned) - set(start) == {"uncertainty.weight"}
    done = finished(runs, storage)
    weights = tmp_path / "runs" / runs[3].name / "weights.safetensors"
    weights.rename(weights.with_suffix(".away"))
    found, outcome = detections(chained, runs, done, storage, jobs=2, device="cpu", say=said.append)
    assert list(outcome.failed) == [runs[3].name]
    assert "weights" in outcome.failed[runs[3].name]
    assert [len(found[label]) for label in ("energy", "Mahalanobis", "learned")] == [2, 2, 1]
    weights.with_suffix(".away").rename(weights)
    count = len(said)
    found, outcome = detections(chained, runs, done, storage, device="cpu", say=said.append)
    assert outcome.complete
    assert len(said) == count + 1, "no model is asked twice"
    assert "AP by learned" in said[-1]
    shown = compared(chained, runs, done, detections=found)
    assert list(shown.groups) == ["energy", "Mahalanobis", "learned"]
    assert {"AUROC", "AP", "FPR95", "mAcc", "fog/miou"} <= set(shown.columns)
    assert shown.values("energy", "AP") != shown.values("Mahalanobis", "AP")
    assert shown.values("energy", "fog/miou") == shown.values("Mahalanobis", "fog/miou")
    report.write(chained, shown, tmp_path / "out", "dgseg study detection")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "AP" in readme
    assert "4 runs, seeds 0, 1" in readme, "rows that ask one model in two ways share its run"
    said.clear()
    assert execute(runs, storage, device="cpu", say=said.append).complete
    assert said == ["4 of 4 runs are finished already"]


def test_what_begins_with_a_run_that_failed_is_not_begun(chained: Grid, tmp_path: Path):
    runs, storage = plan(chained, (0,)), str(tmp_path / "runs")
    spoil(tmp_path / "runs" / runs[0].name)
    outcome = execute(runs, storage, device="cpu", say=lambda _: None)
    assert list(outcome.failed) == [runs[0].name, runs[3].name]
    assert outcome.failed[runs[3].name] == f"{runs[0].name}, which it begins with, failed"


def test_a_dry_run_that_is_stopped_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*_: object, **__: object) -> RunResult:
        return RunResult("stopped", 1, "", None, None)

    monkeypatch.setattr(study_execute, "train", interrupted)
    with pytest.raises(SystemExit) as exit:
        main(["study", "ablation", "--rows", "baseline", "--seeds", "0", "--dry-run", "--storage", "nowhere"])
    assert exit.value.code == 130
    assert capsys.readouterr().err == "dgseg study: stopped; the same command resumes\n"


def test_less_false_alarm_is_better():
    assert SeedDifference(-0.1, -0.2, -0.05, "paired", 3, lower_is_better=True).verdict == "better, beyond noise"
    assert SeedDifference(-0.1, -0.2, -0.05, "paired", 3).verdict == "worse, beyond noise"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "needs at least 1"),
        (["--seeds", "1", "1"], "each once"),
        (["--jobs", "0"], "must be at least 1"),
        (["--set", "model.nam=x"], "did you mean model.name"),
        (["--set", "steps"], "FIELD=VALUE"),
        (["--set", "seed=3"], "each of --seeds"),
        (["--confidence", "2"], "between 0 and 1"),
    ],
)
def test_what_cannot_be_studied(words: list[str], message: str, tmp_path: Path):
    with pytest.raises(SystemExit, match=message):
        main(["study", "ablation", "--storage", str(tmp_path), *words])
