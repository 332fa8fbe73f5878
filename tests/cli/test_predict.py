"""dgseg predict as it is typed: what it prints, writes and exits with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgseg.cli import main
from dgseg.data.streets import Streets
from dgseg.models import build, save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    save_weights(build("bisenet_mini", width=8, decoder=8), path)
    return path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    scenes = Streets("fog", size=(48, 96), length=3)
    for index in range(3):
        path = tmp_path / f"frames/with space/straße {index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scenes[index].image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "frames"


def predict(weights: Path, *words: str | Path) -> int:
    options = ["--weights", weights, "--set", "width=8", "--set", "decoder=8", "--device", "cpu"]
    return main(["predict", *map(str, options), *map(str, words)])


def test_a_folder_of_frames(weights: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert predict(weights, frames, "-o", out, "--write", "labels,overlays,entropy") == 0
    assert "labels, overlays, entropy of 3 images in " in capsys.readouterr().out
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert written == [
        *(f"{kind}/with space/straße {n}.png" for kind in ("entropy", "labels") for n in range(3)),
        "legend.png",
        *(f"overlays/with space/straße {n}.png" for n in range(3)),
    ]
    with Image.open(out / "labels/with space/straße 0.png") as label:
        assert (label.size, label.mode) == ((96, 48), "L")
        assert np.asarray(label).max() < 19
    # Again: refused, then skipped.
    assert predict(weights, frames, "-o", out) == 2
    assert "is there already" in capsys.readouterr().err
    assert predict(weights, frames, "-o", out, "--existing", "skip") == 0
    assert "nothing to do: 3 images of 3 images are there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "agreement"),
    [
        (["--window", "64", "--stride", "24", "--batch", "3"], 0.5),  # windows see less around them
        (["--precision", "bf16"], 0.95),
        pytest.param(["--compile", "--window", "0"], 0.999, marks=pytest.mark.slow),
    ],
    ids=["windows", "bfloat16", "compiled"],
)
def test_what_changes_little(weights: Path, frames: Path, tmp_path: Path, options: list[str], agreement: float):
    found = []
    for name, words in (("plain", []), ("other", options)):
        assert predict(weights, frames, "-o", tmp_path / name, *words) == 0
        with Image.open(tmp_path / name / "labels/with space/straße 1.png") as label:
            found.append(np.asarray(label))
    assert (found[0] == found[1]).mean() > agreement


def test_a_broken_file_shows_in_the_exit_status(
    weights: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (frames / "broken.jpg").write_text("no image")
    assert predict(weights, frames, "-o", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "skipped" in said.err
    assert "broken.jpg" in said.err
    assert "of 3 images in " in said.out
    assert "1 image could not be read" in said.out
    assert predict(weights, frames / "broken.jpg", "-o", tmp_path / "nothing") == 1
    assert "labels, overlays of 0 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.png"], "no image and no folder"),
        (["--window", "-1"], "--window must be at least 0"),
        (["--batch", "0"], "--batch and --threads at least 1"),
        (["--stride", "4096"], "at most --window"),
        (["--window", "0", "--stride", "8"], "at most --window"),
        (["--write", "labels,depth"], "nothing called depth"),
        (["--write", ","], "name something to write"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--model", "bisenet_r18"], "bisenet_r18 cannot be built with {'width': 8"),
        (["--model", "bisenet_minni"], "did you mean bisenet_mini"),
        (["--set", "width=16"], "does not fit the model"),
        (["--num-classes", "7", "--ids", "cityscapes"], "this model has 7"),
    ],
)
def test_usage_is_exit_status_2(
    weights: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    assert predict(weights, frames, *words, "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*/*"))


def test_weights_and_folders_that_are_none(
    weights: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert predict(tmp_path / "none.safetensors", frames, "-o", tmp_path / "out") == 2
    assert "no weights file" in capsys.readouterr().err
    torch.save(build("bisenet_mini", width=8, decoder=8).state_dict(), tmp_path / "nameless.pth")
    assert predict(tmp_path / "nameless.pth", frames, "-o", tmp_path / "out") == 2
    assert "name it with --model" in capsys.readouterr().err
    assert predict(tmp_path / "nameless.pth", frames, "-o", tmp_path / "out", "--model", "bisenet_mini") == 0
    (tmp_path / "file").write_text("")
    assert predict(weights, frames, "-o", tmp_path / "file") == 2
    assert "file" in capsys.readouterr().err
