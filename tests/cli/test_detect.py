"""dgseg detect: models and scorers on the command line, the table and the files."""

import csv
import json
from pathlib import Path

import pytest

from dgseg.cli import main
from dgseg.cli.detect import query
from dgseg.models import build, save_weights
from tests.data import trees

DATA = ["--data", *(f"streets={domain}@test,size=64x96,length=2,unknown=true" for domain in ("fog", "city"))]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "mine" / "weights.safetensors"
    path.parent.mkdir()
    save_weights(build("deeplabv3plus_mobilenetv2", uncertainty=True), path)
    save_weights(build("bisenet_mini"), path.with_name("bare.safetensors"))
    return path


def test_every_scorer_has_its_rows(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"{weights}:max_softmax,odin,mahalanobis", f"other={weights}:learned"]
    files = ["--json", f"{tmp_path}/a/t.json", "--csv", f"{tmp_path}/t.csv"]
    fit = ["--fit", "streets=game@train,size=64x96,length=4"]
    assert main(["detect", *asked, *DATA, *fit, *files, "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split()[:4] == ["data", "set", "AUROC", "AP"]
    labels = ["mine: max_softmax", "mine: odin", "mine: mahalanobis", "other: learned"]
    for label in labels:
        assert [line.split()[2] for line in said if line.startswith(label)] == ["fog", "city", "mean"]
    rows = json.loads((tmp_path / "a/t.json").read_text())
    assert [(row["model"], row["dataset"], row["scorer"]) for row in rows[:2]] == [
        ("mine", "fog", "max_softmax"), ("mine", "fog", "odin"),
    ]  # fmt: skip
    assert all(0 <= row["auroc"] <= 1 and row["weights"] == str(weights) for row in rows)
    with (tmp_path / "t.csv").open() as file:
        assert [float(row["ap"]) for row in csv.DictReader(file)] == [row["ap"] for row in rows]


def test_where_nothing_can_be_found_it_says_so(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = "streets=rain@test,size=64x96,length=1"
    assert main(["detect", f"{weights}:energy", *DATA, known, "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "rain: no pixel of an unknown object (the streets world has some with unknown=true)" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{}:energy", "bare={bare}:learned"], "has no uncertainty head to ask"),
        (["{}:mahalanobis"], "name them with --fit"),
        (["{}:mahalanobis", "--fit", "streets=fog@test"], "fit to what the model was trained on"),
        (["{}:energy", "{}:entropy"], "two models are called"),
        (["nowhere.safetensors:energy"], "no weights file at"),
        (["{}:energy", "--limit", "0"], "at least 1"),
        (["{}:energy", "--data", "streets=fog", "streets=fog,length=3"], "two data sets go by the name of fog"),
        ([], "name models and how they are scored"),
    ],
)
def test_what_cannot_be_asked_is_said(
    weights: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        main(
            [
                "detect",
                *(word.format(weights, bare=weights.with_name("bare.safetensors")) for word in words),
                *([] if "--data" in words else DATA),
                "--device",
                "cpu",
            ]
        )
    assert status.value.code
    assert message in str(status.value.code) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "label", "path"),
    [
        ("runs/lr=0.1/weights.safetensors:energy", "lr=0.1", "runs/lr=0.1/weights.safetensors"),
        ("mine=runs/lr=0.1/w.safetensors:energy", "mine", "runs/lr=0.1/w.safetensors"),
        ("/runs/a.safetensors:energy", "a", "/runs/a.safetensors"),
        ("weights.safetensors:energy", Path.cwd().name, "weights.safetensors"),
    ],
)
def test_what_a_model_is_called(text: str, label: str, path: str) -> None:
    found = query(text)
    assert (found.label, found.weights) == (label, Path(path))


def test_an_image_that_cannot_be_read_is_named_and_skipped(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("damaged", "sound"):
        for number in range(3):
            trees.image(tmp_path / folder / f"images/{number}.png", number, (64, 96))
            labels = trees.ids([*range(19), 254], (64, 96))
            trees.grey(tmp_path / folder / f"labels/{number}.png", labels)
    (tmp_path / "damaged/images/1.png").write_bytes(b"nothing")
    for kind in ("images", "labels"):
        (tmp_path / "sound" / kind / "1.png").unlink()
    rows = {}
    for folder, status in (("damaged", 1), ("sound", 0)):
        words = [f"{weights}:energy", "--data", f"folder={tmp_path / folder},domain=mine", "--device", "cpu"]
        assert main(["detect", *words, "--json", f"{tmp_path}/{folder}.json"]) == status
        rows[folder] = json.loads((tmp_path / f"{folder}.json").read_text())
        said = capsys.readouterr().out
        assert ("1.png" in said) == bool(status)
    assert rows["damaged"] == rows["sound"]


def test_the_table_comes_before_a_file_that_cannot_be_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["detect", f"{weights}:energy", *DATA, "--device", "cpu", "--json", str(tmp_path)]
    with pytest.raises(SystemExit, match="is a folder"):
        main(words)
    assert "mine: energy" not in capsys.readouterr().out
    monkeypatch.setattr("dgseg.cli.model_arguments.check_outputs", lambda *files: None)  # the disk fills up meanwhile
    with pytest.raises(SystemExit, match="Is a directory"):
        main(words)
    assert "mine: energy" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["w.safetensors", ":energy", "w.safetensors:", "w.safetensors:energie"])
def test_a_model_is_written_with_its_scorers(text: str) -> None:
    with pytest.raises(SystemExit, match=r"write \[LABEL=\]WEIGHTS|there is no scorer 'energie'"):
        main(["detect", text, *DATA])
