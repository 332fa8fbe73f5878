"""dgseg evaluate as its user calls it."""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dgseg.cli import main
from dgseg.data import from_spec
from dgseg.data.labels import CLASSES
from dgseg.evaluation import PROTOCOLS, Evaluation, evaluate
from dgseg.models import build, load_weights, save_weights
from tests.data import trees

SIZE = "size=64x128,length=3"
DATA = [f"streets={domain},{SIZE}" for domain in ("fog", "rain", "snow")] + [f"streets=night,{SIZE},unknown=true"]
Run = Callable[..., int]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    save_weights(build("bisenet_mini"), path)
    return path


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, data: list[str] = DATA[-1:]) -> int:
        words = ["evaluate", "--loaders", 0, "--no-mlflow", *arguments]
        words += ["--weights", weights] if "--weights" not in arguments else []
        words += ["--data", *data] if "--data" not in arguments else []
        return main([str(word) for word in words])

    return call


def by_hand(weights: Path, data: list[str], **options: Any) -> Evaluation:
    model = build("bisenet_mini")
    load_weights(model, weights)
    model = model.to(memory_format=torch.channels_last)
    return evaluate(model, [from_spec(spec) for spec in data], PROTOCOLS["native"], **options)


class References(HTMLParser):
    """Everything that a page names, and what its sections are called."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.named: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.named += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        self.ids += [value or "" for name, value in attributes if name == "id"]
        assert tag not in ("link", "iframe", "object", "embed", "base")
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("option", ["--json", "--csv", "--html"])
def test_a_file_that_cannot_be_written_is_refused_before_scoring(run, tmp_path, capsys, option):
    (tmp_path / "taken").write_text("")
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "taken/f", "taken")):
        with pytest.raises(SystemExit, match=message):
            run(option, path)
    assert "mIoU" not in capsys.readouterr().out


def test_every_output_says_the_same(run, weights, tmp_path, capsys):
    assert run("--json", "s.json", "--csv", "s.csv", "--html", "out/s.html", "--panels", "p", data=DATA) == 0
    out = capsys.readouterr().out
    found = by_hand(weights, DATA, extras=("boundary", "calibration", "ood", "components"))
    written = json.loads((tmp_path / "s.json").read_text())
    expected = json.loads(json.dumps(found.as_dict()))
    assert written["domains"] == expected["domains"]
    assert written["averages"] == expected["averages"]
    assert written["model"] == "bisenet_mini"
    assert set(written["domains"]["night"]["ood"]) == {"max_softmax", "entropy", "energy"}
    assert "ood" not in written["domains"]["fog"]

    rows = {row["domain"]: row for row in csv.DictReader((tmp_path / "s.csv").open())}
    assert list(rows) == ["fog", "rain", "snow", "night", "adverse"]
    for domain, result in found.domains.items():
        assert float(rows[domain]["miou"]) == result.scores.miou
        for name, iou in zip(CLASSES, result.scores.iou.tolist(), strict=True):
            cell = rows[domain][f"iou {name}"]
            assert cell == "" if math.isnan(iou) else float(cell) == iou
    assert float(rows["adverse"]["miou"]) == found.averages()["adverse"]

    assert "Protocol native: single scale" in out
    assert f"{100 * found.domains['fog'].scores.miou:.2f}" in out
    assert f"{100 * found.averages()['adverse']:.2f}" in out
    assert "Out-of-distribution pixels" in out
    assert "images, " in out

    with Image.open(tmp_path / "p/night.png") as panel:
        assert panel.width > 5 * 320
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["fog.png", "night.png", "rain.png", "snow.png"]


def test_the_page_needs_nothing_but_itself(run, tmp_path):
    hostile = f"folder={tmp_path}/mine,domain=<b>mine&$x^$</b>"
    trees.image(tmp_path / "mine/images/a.png", 1, (32, 48))
    trees.grey(tmp_path / "mine/labels/a.png", trees.ids([*range(19), 255], (32, 48)))
    assert run("--html", "s.html", "--pictures", 2, data=[DATA[-1], hostile]) == 0
    text = (tmp_path / "s.html").read_text()
    page = References(text)
    assert not page.open  # every tag is closed
    for reference in page.named:
        assert reference.startswith(("data:image/", "#")), reference
        if reference.startswith("#"):
            assert reference[1:] in page.ids
    assert "@import" not in text
    assert "url(" not in text
    assert "<b>mine" not in text
    assert "&lt;b&gt;mine&amp;$x^$&lt;/b&gt;" in text
    for section in ("scores", "classes", "boundaries", "confusion", "calibration", "out-of-distribution", "pictures"):
        assert section in page.ids
    assert text.count("worst of 3") >= 1
    assert text.count("best of 3") >= 1


def test_several_processes_find_the_same(run, tmp_path):
    every = ("--also", "boundary", "calibration", "ood", "components", "images", "--batch", 1)
    assert run("--json", "one.json", *every, data=DATA[-2:]) == 0
    assert run("--json", "two.json", *every, "--jobs", 2, data=DATA[-2:]) == 0
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    del one["images_per_second"], two["images_per_second"]
    assert len(one["domains"]["night"]["per_image"]["ids"]) == 3
    assert one == two


def test_synthia_16_and_precision(run, tmp_path, capsys):
    assert run("--json", "16.json", "--classes", "synthia16", "--precision", "bf16", "--also") == 0
    written = json.loads((tmp_path / "16.json").read_text())
    assert len(written["domains"]["night"]["iou"]) == 16
    assert "train" not in written["domains"]["night"]["iou"]
    assert "ood" not in written["domains"]["night"]
    assert written["precision"] == "bf16"
    assert "16 classes" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::dgseg.data.dataset.DataWarning")
def test_the_papers_protocol_on_a_damaged_cityscapes(run, tmp_path, capsys):
    trees.cityscapes(tmp_path / "cs", cities=("lindau",), each=2)
    broken = next((tmp_path / "cs/leftImg8bit").rglob("*000001*.png"))
    broken.write_bytes(b"no picture")
    assert run("--protocol", "paper", "--csv", "s.csv", data=[f"cityscapes={tmp_path}/cs"]) == 1
    out = capsys.readouterr().out
    assert "Protocol paper-daformer" in out
    assert "fitted into 1024x512" in out
    assert "1 images could not be read" in out
    assert str(broken) in out
    (row,) = csv.DictReader((tmp_path / "s.csv").open())
    assert (row["images"], row["skipped"]) == ("1", "1")


def test_mistakes_are_explained(run, tmp_path):
    nameless = tmp_path / "nameless.pth"
    torch.save({"a": torch.zeros(1)}, nameless)
    for arguments, message in [
        (("--pictures", 2), "--html FILE"),
        (("--weights", "no.safetensors"), "there is no weights file at no.safetensors"),
        (("--weights", nameless), "does not say which model it is of: name it with --model"),
        (("--model", "bisenet"), "did you mean bisenet_"),
        (("--protocol", "paper"), "says nothing about 'streets'"),
        (("--data", "streets=fog", "streets=fog,length=3"), "two data sets go by the name of fog"),
        (("--jobs", 0), "--jobs at least 1"),
        (("--limit", 0), "--limit must be at least 1"),
        (("--scorers", "mahalanobis"), "name them with --fit"),
        (("--scorers", "learned"), "no uncertainty head"),
        (("--precision", "bf16", "--precision", "fp16"), "--precision is given twice"),
    ]:
        data = [f"streets=fog,{SIZE}"]
        with pytest.raises(SystemExit, match=message):
            run(*arguments, data=data)


def test_an_mlflow_run_and_a_server_that_is_down(run, weights, tmp_path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow")
    arguments = ["evaluate", "--weights", str(weights), "--loaders", "0", "--data", DATA[-1]]
    assert main([*arguments, "--html", "s.html"]) == 0
    assert "MLflow run" in capsys.readouterr().out
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (kept,) = client.search_runs([client.get_experiment_by_name("dgseg-evaluate").experiment_id])
    assert kept.info.status == "FINISHED"
    found = by_hand(weights, DATA[-1:])
    assert kept.data.metrics["night/miou"] == found.domains["night"].scores.miou
    assert kept.data.metrics["night/iou/road"] == found.domains["night"].scores.iou[0]
    assert kept.data.params["protocol"] == "native"
    names = {each.path for each in client.list_artifacts(kept.info.run_id)}
    assert names == {"s.html", "protocol.txt", "evaluation.json"}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main([*arguments, "--json", "s.json"]) == 0
    assert "no MLflow run: http://127.0.0.1:9 does not take it" in capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text())["images"] == 3


@pytest.mark.slow
def test_under_torchrun(weights, tmp_path):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dgseg", "evaluate"]
    command += ["--weights", str(weights), "--data", *DATA, "--no-mlflow", "--json", str(tmp_path / "s.json")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    assert done.stdout.count("Scores, %") == 1
    found = by_hand(weights, DATA, extras=["ood", "components"]).as_dict()
    assert json.loads((tmp_path / "s.json").read_text())["domains"] == json.loads(json.dumps(found["domains"]))
