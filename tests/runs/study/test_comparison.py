"""Recorded runs, grouped and compared; the command as it is typed."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dgseg.cli import main
from dgseg.evaluation.names import domain_of
from dgseg.runs.study import charts, tables
from dgseg.runs.study.comparison import compare
from dgseg.runs.study.records import COSTS, Record, from_folders, with_costs
from tests.runs.study import recorded

FOG = {"erm-streets": (0.10, 0.12, 0.11), "flexseg-streets": (0.14, 0.17, 0.16)}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for recipe, scores in FOG.items():
        for seed, fog in enumerate(scores):
            recorded.run(tmp_path / "runs", recipe, seed, fog)
    return tmp_path / "runs"


def records(folder: Path) -> list[Record]:
    return list(from_folders([str(folder)]).records)


def test_a_run_s_folder_is_read_whole(runs: Path):
    found = from_folders([str(runs / "erm-streets-seed1")]).records[0]
    assert (found.name, found.seed, found.commit) == ("erm-streets-seed1", 1, "0123456789abcdef")
    assert found.fields["optimizer.kind"] == "adamw"
    assert found.scores["fog/miou"] == 0.12
    assert found.scores["fog/iou/road"] == 0.24
    assert "fog/iou/train" not in found.scores  # NaN: the class does not occur
    assert found.scores["validation/miou"] == pytest.approx(0.42)  # the last one
    assert found.curves["loss"] == ((10, 10.0), (20, 5.0), (30, 100 / 30))
    assert from_folders([str(runs / "erm-streets-seed1" / "result.json")]).records == [found]


def test_means_differences_and_their_verdict(runs: Path):
    found = compare(records(runs), baseline="erm-streets")
    assert list(found.groups) == ["erm-streets", "flexseg-streets"]
    assert found.columns[:5] == [f"{name}/miou" for name in ("adverse", "standard", "all", "validation", "fog")]
    assert found.columns[-1] == "game/miou"  # no target
    mean = found.summary("flexseg-streets", "fog/miou")
    assert mean is not None
    assert mean.mean == pytest.approx(0.47 / 3)
    difference = found.difference("flexseg-streets", "fog/miou")
    assert difference is not None
    assert difference.mean == pytest.approx(0.14 / 3)
    assert difference.method == "paired"
    assert difference.beyond_noise
    assert "paired by seed, 3 seeds): better, beyond noise" in found.sentence("flexseg-streets", "fog/miou")
    assert "within noise" in found.sentence("flexseg-streets", "standard/miou")
    assert found.difference("erm-streets", "fog/miou") is None


def test_runs_with_other_settings_stand_apart(runs: Path):
    for seed in (0, 1):
        recorded.run(runs, "flexseg-streets", seed, 0.2, {"objective.ube.alpha": 5, "data.loaders": 0}, f"five{seed}")
    found = compare(records(runs))
    assert {label: len(of) for label, of in found.groups.items()} == {
        "erm-streets": 3,
        "flexseg-streets A": 2,
        "flexseg-streets B": 3,
    }
    (legend,) = tables.settings_tables(found)
    assert legend.head == ("setting", "flexseg-streets A", "flexseg-streets B")
    assert legend.rows == (("objective.ube.alpha", "5.0", "3.0"),)
    assert compare(records(runs), baseline="erm-streets").notes == []
    with pytest.raises(ValueError, match="fits several groups"):
        compare(records(runs), baseline="flexseg-streets")
    asked = compare(records(runs), group_by=["objective.ube.alpha"], columns=["fog", "name"], baseline="3.0")
    assert list(asked.groups) == ["3.0", "5.0", "–"]  # the baseline first
    assert asked.fields == ["name"]
    assert asked.difference("5.0", "fog/miou").method == "Welch"  # type: ignore[union-attr]


def test_single_runs_go_by_their_names(tmp_path: Path):
    for name, alpha in (("smoke", 3.0), ("real", 5.0)):
        recorded.run(tmp_path, "flexseg-streets", 0, 0.2, {"objective.ube.alpha": alpha}, name)
    found = compare(records(tmp_path), baseline="smoke")
    assert set(found.groups) == {"smoke", "real"}
    assert found.settings["real"] == {"objective.ube.alpha": "5.0"}
    (row,) = tables.differences_tables(found, 10_000)[0].rows
    assert row[0] == "real"


def test_runs_without_a_common_domain_stand_apart(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    folder = recorded.run(runs, "erm-streets", 0, 0.5, {"schedule.steps": 7}, "warehouse")
    result = json.loads((folder / "result.json").read_text())
    result["scores"] = {"warehouse/miou": 0.8}
    (folder / "result.json").write_text(json.dumps(result))
    found = compare(records(runs))
    assert [sorted(labels) for labels in found.families] == [["erm-streets A", "flexseg-streets"], ["warehouse"]]
    first, second = tables.scores_tables(found, 10_000)
    assert {row[0] for row in first.rows} == {"erm-streets A", "flexseg-streets"}
    assert "warehouse" not in first.head
    assert list(compare(records(runs), baseline="erm-streets A").against) == ["flexseg-streets"]
    assert second.rows == (("warehouse", "1", "80.00", "80.00"),)  # its curve on validation data, and its test
    assert main(["compare", str(runs), "--html", str(tmp_path / "c.html")]) == 0
    assert "What differs" in capsys.readouterr().out
    assert (tmp_path / "c.html").read_text().count('alt="scores of every group"') == 2


def test_a_dollar_in_a_recipes_name_costs_no_page(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = runs / "erm-streets-seed0" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: erm-streets", 'name: "$_{<b>^"'))
    assert main(["compare", str(runs), "--html", str(tmp_path / "c.html"), "--plots", str(tmp_path / "p")]) == 0
    assert "$_{<b>^" in capsys.readouterr().out
    page = (tmp_path / "c.html").read_text()
    assert "$_{&lt;b&gt;^" in page
    assert "$_{<b>^" not in page
    assert Image.open(tmp_path / "p" / "bars.png").width > 100


def test_what_is_mixed_on_purpose_is_told(runs: Path):
    # Of a part that one does without, the kind alone is named.
    with pytest.raises(
        ValueError, match=r"share seed 0 and differ in name, (?!.*gap\.dim).*objective\.gap\.kind.*--group-by"
    ):
        compare(records(runs), group_by=["model.name"])
    for seed in (7, 8):
        recorded.run(runs, "flexseg-streets", seed, 0.2, {"optimizer.lr": 1e-3})
    found = compare(records(runs), group_by=["name"])
    assert found.notes == ["flexseg-streets: its runs differ in more than the seed: optimizer.lr."]
    assert len(found.groups["flexseg-streets"]) == 5


def test_a_seed_counts_once(runs: Path):
    recorded.run(runs, "erm-streets", 0, 0.5, name="z-again")
    found = compare(records(runs))
    assert found.values("erm-streets", "fog/miou")[0] == 0.5
    assert any("seed 0 is there twice; z-again counts" in note for note in found.notes)


def test_one_seed_claims_nothing(tmp_path: Path):
    for recipe in FOG:
        recorded.run(tmp_path, recipe, 0, FOG[recipe][0])
    found = compare(records(tmp_path), baseline="erm-streets")
    assert found.sentence("flexseg-streets", "fog/miou").endswith("+4.00 points; no verdict: fewer than 2 seeds")
    assert tables.mean_and_std(found.summary("erm-streets", "fog/miou")) == "10.00"
    assert "none where a side has fewer than 2 seeds" in found.method
    assert tables.points(found.difference("flexseg-streets", "fog/miou")) == "+4.00"


def test_the_csv_gives_every_number_back(runs: Path):
    found = compare(records(runs), baseline="erm-streets", columns=["fog", "objective.ube.alpha", "fog/iou"])
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(found))))
    assert [(row["group"], row["score"]) for row in rows] == [
        ("erm-streets", "fog/miou"),
        ("erm-streets", "fog/iou/road"),
        ("flexseg-streets", "fog/miou"),
        ("flexseg-streets", "fog/iou/road"),
    ]
    difference = found.difference("flexseg-streets", "fog/miou")
    assert difference is not None
    assert (float(rows[2]["low"]), float(rows[2]["high"])) == (difference.low, difference.high)
    assert [row["objective.ube.alpha"] for row in rows[1:3]] == ["–", "3.0"]
    assert rows[2]["verdict"] == "better, beyond noise"
    assert rows[0]["low"] == ""


def test_tables_fit_the_line_and_lose_nothing(runs: Path):
    found = compare(records(runs), baseline="erm-streets")
    for make in (tables.scores_tables, tables.differences_tables):
        cut, whole = make(found, 80), make(found, 10_000)
        assert len(whole) == 1 < len(cut)
        shown = list(map(domain_of, found.columns))
        assert [name for table in cut for name in table.head if name in shown] == shown
        for table in cut:
            widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
            assert sum(widths) + 2 * (len(widths) - 1) <= 80


def test_a_mean_says_where_it_is_of_fewer_runs(runs: Path):
    erm = [run for run in records(runs) if run.fields["name"] == "erm-streets"]
    assert erm[1].scores["fog/miou"] == FOG["erm-streets"][1]
    alone, both = {"rain/miou": 0.3}, {"rain/miou": 0.3, "fog/miou": 0.1}
    lacking = [erm[0], replace(erm[1], scores=alone), replace(erm[2], scores=both)]
    (table,) = tables.scores_tables(compare(lacking, columns=["fog", "rain"]), 10_000)
    assert table.rows == (("erm-streets", "3", "10.00 ± 0.00 (2 of 3)", "30.00 ± 0.00"),)


def test_scores_of_other_kinds_have_axes_of_their_own(runs: Path):
    told = [replace(run, scores={**run.scores, "AP": 0.04, "FPR95": 0.9}) for run in records(runs)]
    ap, fpr, miou = charts.bars(compare(told, columns=["AP", "FPR95", "fog", "rain"])).axes
    assert ap.get_ylim()[1] < 6
    assert fpr.get_ylim()[1] > 90
    assert [axes.get_ylabel() for axes in (ap, miou)] == ["%, ± std over seeds", "mIoU, %, ± std over seeds"]
    assert [label.get_text() for label in fpr.get_xticklabels()] == ["FPR95, lower is better"]
    (mixed,) = charts.bars(compare(told, columns=["fog", "fog/iou"])).axes
    assert mixed.get_ylabel() == "%, ± std over seeds"  # a class's IoU is no mIoU
    (alone,) = charts.bars(compare(told, columns=["AP"])).axes
    assert sorted(alone.get_legend_handles_labels()[1]) == ["erm-streets", "flexseg-streets"]


def test_costs_are_columns(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The real-time study's Table 1: scores beside what `dgseg profile` measured, of the same model alone."""
    model = records(runs)[0].fields["model.name"]
    costs = str(tmp_path / "costs.json")
    cheap = ["--size", "64x96", "--rounds", "1", "--json", costs]
    assert main(["profile", model, *cheap]) == 0
    capsys.readouterr()
    columns = ["--columns", "fog", "latency", "MACs", "params", "FPS"]
    assert main(["compare", str(runs), "--profile", costs, *columns]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (" ms", " G ", " M ", "FPS"))
    assert "Latency and FPS (costs.json): inference of 1x3x64x96, float32, on " in said
    assert main(["profile", "bisenet_r18", *cheap]) == 0
    with pytest.raises(SystemExit, match="measures bisenet_r18: no run has that model"):
        main(["compare", str(runs), "--profile", costs, *columns])
    assert main(["profile", model, *cheap, "--train"]) == 0
    with pytest.raises(SystemExit, match="times of training steps"):
        main(["compare", str(runs), "--profile", costs, *columns])


def test_models_that_differ_in_options_have_costs_from_files_of_their_own(tmp_path: Path):
    """BlindNet's Table 3; its baseline's options say None, which is no option."""
    model, profiles = "deeplabv3plus_mobilenetv2", {"plain": [], "blind": ["--set", "instance_norms=whitening"]}
    for recipe in ("blindnet", "study:blindnet-baselines/erm"):
        recorded.run(tmp_path / "runs", recipe, 0, 0.4, {"model.name": model})
    costs = {name: str(tmp_path / f"{name}.json") for name in profiles}
    for name, options in profiles.items():
        cheap = ["--size", "64x96", "--rounds", "1", "--json", costs[name]]
        assert main(["profile", model, *options, *cheap]) == 0
    measured: list[Record] = with_costs(records(tmp_path / "runs"), Path(costs["plain"]))
    assert [set(COSTS) <= set(run.fields) for run in measured] == [
        run.name == "blindnet-baselines-erm-seed0" for run in measured
    ]
    assert main(["compare", str(tmp_path / "runs"), "--profile", *costs.values(), "--columns", "fog", "MACs"]) == 0
    both = with_costs(measured, Path(costs["blind"]))
    assert len({run.fields["latency"] for run in both}) == 2


def test_results_that_hold_a_mapping_per_domain_are_read(tmp_path: Path):
    """As runs wrote them before scores had one name."""
    place = recorded.run(tmp_path, "erm-streets", 0, 0.4) / "result.json"
    result = json.loads(place.read_text())
    del result["scores"]
    old = {"scores": {"fog": {"miou": 0.4, "iou/road": 0.9}}, "averages": {"adverse": 0.3}}
    place.write_text(json.dumps({**result, **old}))
    scores = records(tmp_path)[0].scores
    del scores["validation/miou"]
    assert scores == {"fog/miou": 0.4, "fog/iou/road": 0.9, "adverse/miou": 0.3}


def test_classes_stand_in_their_own_order(tmp_path: Path):
    """Whichever of them the first run has scores of."""
    for seed, there in enumerate((["bicycle", "sky"], ["train", "bicycle", "sky", "road"])):
        place = recorded.run(tmp_path, "erm-streets", seed, 0.4) / "result.json"
        result = json.loads(place.read_text())
        result["scores"] = {"fog/miou": 0.4, **{f"fog/iou/{name}": 0.1 for name in there}, "fog/macc": 0.5}
        place.write_text(json.dumps(result))
    found = compare(records(tmp_path), columns=["fog", "fog/iou", "fog/macc"])
    classes = [f"fog/iou/{name}" for name in ("road", "sky", "train", "bicycle")]
    assert found.columns == ["fog/miou", *classes, "fog/macc"]


def test_nothing_finished(tmp_path: Path):
    recorded.run(tmp_path, "erm-streets", 0, 0.4)
    (tmp_path / "erm-streets-seed0" / "result.json").unlink()
    with pytest.raises(SystemExit, match=r"none of 1 runs can be compared: .*erm-streets-seed0: not finished"):
        main(["compare", str(tmp_path)])


def test_latex_escapes(tmp_path: Path):
    for seed, fog in enumerate(FOG["flexseg-streets"]):
        recorded.run(tmp_path, "flexseg-streets", seed, fog)
    text = tables.as_latex(compare(records(tmp_path), group_by=["model.name"], columns=["fog", "standard"]))
    assert r"bisenet\_mini & 3 & 15.67 $\pm$ 1.53 & 30.00 $\pm$ 0.00 \\" in text
    assert text.count(r"\begin{tabular}{lrrr}") == text.count(r"\end{tabular}") == 1


def test_latex_escapes_whatever_a_setting_holds(tmp_path: Path):
    for seed, path in enumerate(("[a]{b}^2", "~/a\\-1")):
        recorded.run(tmp_path, "flexseg-streets", seed, 0.1, {"model.weights": path})
    text = tables.as_latex(compare(records(tmp_path), group_by=["model.weights"], columns=["fog"]))
    assert r"{}[a]\{b\}\textasciicircum{}2 & 1 & 10.00 \\" in text
    assert r"\textasciitilde{}/a\textbackslash{}$-$1 & 1 & 10.00 \\" in text


def test_without_points_there_are_no_curves(runs: Path):
    for file in runs.glob("*/metrics.jsonl"):
        file.unlink()
    found = compare(records(runs))
    assert charts.learning_curves(found) is None
    assert "validation/miou" not in found.columns


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("result.json", '{"na'),
        ("result.json", "[]"),
        ("result.json", "[" * 100_000),
        ("recipe.yaml", "a: ["),
        ("recipe.yaml", "[" * 100_000),
        ("metrics.jsonl", '{"kind": "st\n'),
    ],
)
def test_a_damaged_run_is_named_and_costs_the_others_nothing(runs: Path, file: str, text: str):
    damaged = runs / "erm-streets-seed1"
    (damaged / file).write_text(text)
    found = from_folders([str(runs)])
    assert len(found.records) == 5
    assert list(found.left_out) == [str(damaged)]
    assert "damaged" in found.left_out[str(damaged)]


def test_the_command(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (runs / "unfinished").mkdir()
    (runs / "unfinished" / "recipe.yaml").write_text("name: x")
    out = tmp_path / "out"
    files = ["--csv", f"{out}/c.csv", "--latex", f"{out}/c.tex", "--html", f"{out}/c.html", "--plots", str(out)]
    status = main(["compare", str(runs), "--baseline", "erm-streets", *files])
    said = capsys.readouterr().out
    assert status == 0
    assert "15.67 ± 1.53" in said
    assert "flexseg-streets against erm-streets, all: +0.67 points" in said
    assert f"left out: {runs / 'unfinished'}: not finished" in said
    page = (out / "c.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "http" not in page.replace("http://www.w3.org", "")
    for name in ("bars.png", "learning-curves.png"):
        with Image.open(out / name) as picture:
            picture.load()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name runs' folders, or"),
        (["--run", "abc", "--tag", "a=b"], "leave out"),
        (["nowhere"], "nowhere: no run lies there"),
        (["nowhere.json"], "no such file"),
        (["RUNS", "--baseline", "erm"], "is no group; there are: flexseg-streets; erm-streets"),
        (["RUNS", "--columns", "fogg"], "did you mean fog"),
        (["RUNS", "--columns", "model.name"], "name a score too"),
        (["RUNS", "--group-by", "model.nam"], "did you mean model.name"),
        (["RUNS", "--confidence", "95"], "between 0 and 1"),
        (["--experiment", "x", "--uri", "sqlite:////nowhere/mlflow.db"], "there is no /nowhere/mlflow.db"),
    ],
)
def test_what_cannot_be_compared(runs: Path, words: list[str], message: str):
    with pytest.raises(SystemExit, match=message):
        main(["compare", *(str(runs) if word == "RUNS" else word for word in words)])
