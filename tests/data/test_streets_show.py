"""What people look at: the contact sheet and the gap's table."""

import numpy as np
import pytest
import torch
from PIL import Image

from dgseg.bench import gap
from dgseg.cli import main
from dgseg.cli.data.gap import table
from dgseg.data.labels import coloured
from dgseg.data.pictures import Panel, banded, bordered, borders, contact_sheet, deep


def test_show_writes_a_sheet_of_panels_and_legend(tmp_path, capsys):
    path = tmp_path / "sheets" / "fog.png"
    arguments = ["--domain", "fog", "--count", "2", "--index", "3", "--size", "64x128", "-o", str(path)]
    assert main(["data", "show", "streets", *arguments]) == 0
    assert str(path) in capsys.readouterr().out
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[1] > 5 * 128  # image, labels, bands, borders, depth
    assert sheet.shape[0] > 2 * 64
    colours = {tuple(int(v) for v in c) for c in sheet.reshape(-1, 3)}
    for label in range(19):  # the legend names every class
        assert tuple(int(v) for v in coloured(np.array(label, np.uint8))) in colours


def test_show_an_unlabelled_target(tmp_path):
    path = tmp_path / "a.png"
    arguments = ["--domain", "snow", "--split", "train", "--use", "adaptation", "--count", "1", "--size", "64x128"]
    assert main(["data", "show", "streets", *arguments, "-o", str(path)]) == 0
    assert Image.open(path).width < 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["streets", "--domain", "desert"], "game, generated"),
        (["streets", "--domain", "fog", "--split", "val"], "dusk"),
        (["streets", "/data/streets"], "no folder"),
        (["streets", "--domain", "fog", "--misalignment", "2"], "for the sources"),
        (["streets", "--count", "0"], "at least 1"),
        (["streets", "--index", "1000000"], "1000000"),
        (["folder"], "name the folder"),
        (["folder=/data/mine", "/data/mine"], "leave /data/mine out"),
        (["folder=/data/mine", "--seed", "0"], "--seed is for streets; folder is read"),
        (["folder=/data/mine@val", "--split", "train"], "both name a split"),
        (["streets=fog", "--seed", "0"], "streets=fog says everything itself"),
        (["streets=fog@train"], "use='oracle'"),
        (["streets=fog", "--split", "val"], "Select on 'dusk'"),
        (["folder", "/data/mine", "--seed", "0"], "--seed is for streets"),
        (["folder", "/data/mine@val", "--split", "train"], "both name a split"),
        (["streets", "--count", "1", "--size", "8x8", "-o", "/dev/null/sheet.png"], "/dev/null"),
    ],
)
def test_show_says_what_to_change(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main(["data", "show", *arguments])
    assert not list(tmp_path.iterdir())


def test_show_takes_a_folders_options(tmp_path, capsys):
    for folder, name in (("images", "a_rgb.png"), ("labels", "a.png")):
        (tmp_path / folder).mkdir()
        Image.new("RGB" if folder == "images" else "L", (8, 8), 0).save(tmp_path / folder / name)
    root = f"{tmp_path},image_suffix=_rgb.png,domain=mine"
    for named in (["folder", root], [f"folder={root}"]):
        assert main(["data", "show", *named, "--count", "1", "-o", str(tmp_path / "sheet.png")]) == 0
        assert "1 samples of mine" in capsys.readouterr().out


@pytest.mark.parametrize("named", [["streets=fog@test,size=64x128"], ["streets=fog,size=64x128", "--split", "test"]])
def test_show_takes_the_specification_of_every_command(named, tmp_path):
    sheets = [tmp_path / f"{number}.png" for number in range(2)]
    assert main(["data", "show", f"{named[0]},depth=true", *named[1:], "--count", "1", "-o", str(sheets[0])]) == 0
    plain = ["streets", "--domain", "fog", "--size", "64x128", "--count", "1", "-o", str(sheets[1])]
    assert main(["data", "show", *plain]) == 0
    assert sheets[0].read_bytes() == sheets[1].read_bytes()


def test_borders_bands_and_depth():
    label = np.zeros((6, 8), np.uint8)
    label[:, 4:] = 1
    assert borders(label).sum() == 6
    assert borders(label)[:, 3].all()
    picture = bordered(np.full((6, 8, 3), 9, np.uint8), label)
    assert (picture[:, 3] == (255, 0, 255)).all()
    assert (picture[:, 5] == 9).all()
    assert banded(np.array([[0, 1, 200]], np.uint8)).shape == (1, 3, 3)
    grey = deep(np.array([[0, 3, 40, 150, 9999]], np.float32))[0, :, 0]
    assert grey[0] == 0
    assert grey[1] == 255
    assert grey[1] > grey[2] > grey[3] == grey[4] > 0


def test_a_sheet_needs_rows_and_takes_uneven_ones(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([], tmp_path / "none.png")
    small, large = (Panel("a very long caption indeed", np.zeros((s, 2 * s, 3), np.uint8)) for s in (20, 400))
    contact_sheet([[small], [small, large]], tmp_path / "uneven.png", widest=300)
    assert Image.open(tmp_path / "uneven.png").width < 420 + 100


def scores(miou: float) -> gap.Scores:
    return gap.Scores(miou, {"road": 90.0, "train": miou})


def test_the_gap_is_judged_by_the_adverse_mean_and_the_least_oracle():
    settings = gap.Settings(domains=("city", "fog", "night"))
    result = gap.Result(
        source={"game": scores(60), "city": scores(50), "fog": scores(40), "night": scores(20)},
        oracle={"city": scores(55), "fog": scores(52), "night": scores(50)},
        seconds={"game": 60, "city": 60, "fog": 60, "night": 60},
    )
    summary = gap.summary(result, settings)
    assert summary == {"loss": 30.0, "oracle": 21.0, "least_oracle": 12.0}
    text = table(result, settings, summary)
    assert "adverse mean" in text
    assert "30.0   target 15   OK" in text
    assert "12.0   target 15   BELOW" in text
    assert gap.summary(result, gap.Settings(domains=("city",)))["loss"] is None


def test_gap_trains_scores_and_writes(tmp_path):
    path = tmp_path / "gap.json"
    small = ["--steps", "2", "--batch", "2", "--size", "64x128", "--test", "3", "--threads", "1"]
    threads = torch.get_num_threads()
    try:
        assert main(["data", "gap", *small, "--domains", "rain", "--json", str(path)]) == 1
    finally:
        torch.set_num_threads(threads)
    assert '"rain"' in path.read_text()
    assert '"commit"' in path.read_text()


def test_the_gaps_batches_are_the_same_every_time():
    settings = gap.Settings(steps=3, batch=4, size=(32, 64))
    first, again = ([(i.sum().item(), t.sum().item()) for i, t in gap._batches("fog", settings)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 3
