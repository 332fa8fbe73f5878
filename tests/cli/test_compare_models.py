"""dgseg compare-models and dgseg embed as they are typed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgseg.cli import main
from dgseg.models import build, save_weights
from tests.data import trees

DATA = ("--data", "streets=fog,size=32x64,length=10", "streets=night,size=32x64,length=10", "--device", "cpu")
NARROW = ("--set-a", "width=8", "--set-a", "decoder=8", "--set-b", "width=8", "--set-b", "decoder=8")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models, saved under names with a space."""
    folder, paths = tmp_path_factory.mktemp("weights"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        paths.append(folder / f"seed {seed}.safetensors")
        save_weights(build("bisenet_mini", width=8, decoder=8), paths[-1])
    return paths


def compare(*words: str | Path) -> int:
    data = DATA[3:] if "--data" in words else DATA
    return main(["compare-models", *map(str, words), *NARROW, *data, "--loaders", "0", "--resamples", "200"])


def embed(*words: str | Path) -> int:
    return main(["embed", *map(str, words), *NARROW, *DATA, "--pixels", "3"])


def test_two_models(weights: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, page = tmp_path / "out", tmp_path / "page/compared.html"
    assert compare(*weights, "-o", out, "--html", page, "--pictures", "1") == 0
    said = capsys.readouterr().out
    assert f"A: seed 0 (bisenet_mini, {weights[0]})" in said
    assert "Protocol native" in said
    assert "beyond noise" in said
    kept = json.loads((out / "comparison.json").read_text())
    assert list(kept["domains"]) == ["fog", "night", "average"]
    assert kept["models"]["B"] == f"seed 1 (bisenet_mini, {weights[1]})"
    for each in kept["domains"].values():
        assert each["verdict"] in said
    written = sorted(path.name for path in out.iterdir())
    assert written[:4] == ["boundary-errors.png", "comparison.csv", "comparison.json", "differences.png"]
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    assert page.read_text().startswith("<!doctype html>")


def test_a_domain_without_labels_takes_no_other_along(
    weights: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for number in range(2):
        trees.image(tmp_path / f"void/images/{number}.png", number, (32, 64))
        trees.grey(tmp_path / f"void/labels/{number}.png", np.full((32, 64), 255, np.uint8))
    out = tmp_path / "out"
    assert compare(*weights, *DATA[:3], f"folder={tmp_path}/void", "-o", out, "--html", out / "p.html") == 0
    assert "void: no image has a labelled pixel" in capsys.readouterr().out
    assert list(json.loads((out / "comparison.json").read_text())["domains"]) == ["fog", "night", "average"]


def test_a_model_does_not_differ_from_itself(weights: list[Path], capsys: pytest.CaptureFixture[str]):
    assert compare(weights[0], weights[0]) == 0
    assert capsys.readouterr().out.count("A and B do not differ beyond noise") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--confidence", "95"], "--confidence between 0 and 1"),
        (["--resamples", "0"], "--resamples must be at least 1"),
        (["--seed", "-1"], "--seed at least 0"),
        (["--pictures", "-1"], "--pictures must be at least 0"),
        (["--data", "streets=fog", "streets=fog,length=3"], "two data sets go by the name of fog"),
        (["--protocol", "paper"], "says nothing about 'streets'"),
        (["--batch", "0"], "batch_size must be at least 1"),
        (["--model-b", "bisenet_minni"], "did you mean bisenet_mini"),
    ],
)
def test_what_cannot_be_compared(weights: list[Path], words: list[str], message: str):
    ours = ["--resamples", "200"] if words[0] != "--resamples" else []
    data = DATA[3:] if "--data" in words else DATA
    with pytest.raises(SystemExit, match=message):
        main(["compare-models", *map(str, weights), *NARROW, *data, "--loaders", "0", *ours, *words])


def test_weights_that_are_none(weights: list[Path], tmp_path: Path):
    with pytest.raises(SystemExit, match="no weights file"):
        compare(weights[0], tmp_path / "none.safetensors")
    with pytest.raises(SystemExit, match="no weights file"):
        embed(tmp_path / "none.safetensors")
    with pytest.raises(SystemExit, match="name the weights of two models"):
        compare(weights[0])


def test_embedding_one_model_or_two(weights: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, points = tmp_path / "made/embedding.png", tmp_path / "points.json"
    assert embed(weights[0], "-o", out, "--images", "4", "--classes", "road,sidewalk,building,sky") == 0
    said = capsys.readouterr().out
    assert "24 pixels and 8 images of fog, night" in said
    with Image.open(out) as picture:
        wide = picture.size
    assert embed(*weights, "-o", out, "--images", "4", "--classes", "road,sky", "--json", points) == 0
    with Image.open(out) as picture:
        assert (picture.width, picture.height > wide[1]) == (wide[0], True)
    kept = json.loads(points.read_text())
    assert [cloud["title"] for cloud in kept["clouds"]["seed 1"]] == [
        "decoder, by class", "decoder, by domain", "covariances of decoder, by domain",
    ]  # fmt: skip
    assert kept["clouds"]["seed 0"][0]["groups"] == kept["clouds"]["seed 1"][0]["groups"]  # the same pixels
    assert set(kept["clouds"]["seed 0"][0]["groups"]) == {"road", "sky"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classes", "road,street"], "no class 'street'"),
        (["--images", "0"], "--images and --pixels must be at least 1"),
        (["--feature", "brain"], "no features 'brain'; it has"),
        (["--images", "1", "--classes", "road"], "covariances.*at least 4 points|at least 4 points"),
    ],
)
def test_what_cannot_be_embedded(weights: list[Path], words: list[str], message: str, tmp_path: Path):
    with pytest.raises(SystemExit, match=message):
        embed(weights[0], "-o", tmp_path / "embedding.png", *words)
