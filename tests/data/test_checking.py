"""dgseg data check finds what was broken on purpose, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgseg.cli import main
from dgseg.data.datasets import open_dataset
from dgseg.data.lists import read_list
from dgseg.data.parallel import each
from tests.data import trees
from tests.data.trees import ids


def folder(root: Path, count: int = 3) -> None:
    for split in ("train", "val"):
        for number in range(count):
            trees.image(root / f"images/{split}/{number}.png", trees.hash_of(f"{split}{number}"))
            trees.grey(root / f"labels/{split}/{number}.png", ids([0, 13, 255]))


def check(*arguments: object) -> int:
    return main(["data", "check", *map(str, arguments)])


def test_a_clean_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    folder(tmp_path)
    assert check("folder", tmp_path) == 0
    out = capsys.readouterr().out
    assert "Nothing is wrong." in out
    assert "Not here: test" in out
    assert "18×12" in out
    assert "33.3 %" in out  # void
    assert out.count("50.000") == 4  # road and car, in train and val
    # The frequencies are cached: nothing has to be read for rare-class sampling.
    assert len(list((cache / "class_pixels").iterdir())) == 2


def test_frequencies_come_from_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path)
    assert check("folder", tmp_path) == 0
    dataset = open_dataset("folder", tmp_path, "train")
    monkeypatch.setattr("dgseg.data.statistics.each", None)  # counting again would fail
    assert dataset.class_pixels()[:, [0, 13]].tolist() == [[72, 72]] * 3


def test_everything_that_can_be_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path, 8)
    train = tmp_path / "images/train"
    truncated = train / "0.png"
    truncated.write_bytes(truncated.read_bytes()[:-40])
    flipped = bytearray((train / "1.png").read_bytes())
    flipped[-20] ^= 1  # in the checksum of the pixels
    (train / "1.png").write_bytes(flipped)
    trees.grey(tmp_path / "labels/train/2.png", ids([0, 200]))
    trees.grey(tmp_path / "labels/train/3.png", ids([0], (5, 5)))
    (tmp_path / "labels/train/4.png").unlink()
    (train / "5.png").unlink()
    Image.open(train / "6.png").save(train / "6.png", compress_level=0)  # other bytes, the same pixels
    Image.open(train / "6.png").save(tmp_path / "images/val/3.png")
    quarantine, report = tmp_path / "lists/bad.txt", tmp_path / "lists/report.json"
    assert check("folder", tmp_path, "--quarantine", quarantine, "--json", report) == 1
    out = capsys.readouterr().out
    for sample, reason in (
        ("0", "folder: cannot be read"),
        ("1", "folder: cannot be read: the checksum of its IDAT chunk is wrong; unpack it again"),
        ("2", "labels hold 200; valid: 0–18, 254–255"),
        ("3", "the label is 5×5, its image"),
        ("4", "has no label"),
        ("5", "has no image"),
    ):
        assert any(line.startswith(f"bad: folder/train/{sample}: ") and reason in line for line in out.splitlines()), (
            sample
        )
    assert "leak: folder/train/6 and folder/val/3 are the same image" in out
    assert "Something is wrong" in out
    assert "7 samples to skip" in out
    content = json.loads(report.read_text())
    assert content["clean"] is False
    assert [len(split["bad"]) for split in content["splits"]] == [6, 0]
    assert content["leaks"] == [["folder/train/6", "folder/val/3"]]
    rest = open_dataset("folder", tmp_path, "train", quarantine=quarantine)
    assert [rest.id(index) for index in range(len(rest))] == ["folder/train/7"]
    assert rest[0].label is not None
    assert rest.quarantined == 7  # type: ignore[attr-defined]


def test_every_copy_of_a_held_out_image_is_found(tmp_path: Path) -> None:
    folder(tmp_path)
    for copy in ("0", "2"):
        Image.open(tmp_path / "images/val/1.png").save(tmp_path / f"images/train/{copy}.png")
    assert check("folder", tmp_path, "--quarantine", tmp_path / "bad.txt") == 1
    assert read_list(tmp_path / "bad.txt").ids == {"folder/train/0", "folder/train/2"}


def test_quarantined_samples_are_wrong_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path)
    (tmp_path / "images/train/1.png").write_bytes(b"")
    assert check("folder", tmp_path, "--split", "train", "--quarantine", tmp_path / "bad.txt") == 1
    capsys.readouterr()
    assert check("folder", f"{tmp_path}@train,quarantine={tmp_path}/bad.txt") == 0
    assert "2 + 1 in quarantine" in capsys.readouterr().out


def test_an_incomplete_split_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.cityscapes(tmp_path)
    assert check("cityscapes", tmp_path) == 1
    out = capsys.readouterr().out
    assert "incomplete: cityscapes/val has 4 files, the provider ships 500" in out
    assert "Not here: train, test" in out


def test_splits_without_labels_are_checked_as_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.image(tmp_path / "images/airplane0.jpg", 1)
    trees.image(tmp_path / "images/validation0.jpg", 2)
    trees.grey(tmp_path / "labels_masks/validation0_labels_semantic.png", ids([0, 1, 255]))
    assert check("smiyc-ra21", tmp_path, "--json", tmp_path / "r.json") == 1  # 1 of 10
    out = capsys.readouterr().out
    assert "no labels" in out
    assert "33.3 % out of distribution" in " ".join(out.replace("│", " ").split())
    assert "class " not in out
    assert [split["files"] for split in json.loads((tmp_path / "r.json").read_text())["splits"]] == [1, 1]


def test_gta5_without_its_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.gta5(tmp_path, 2)
    assert check("gta5", tmp_path) == 1
    assert "incomplete: gta5/all has 2 files, the provider ships 24,966" in capsys.readouterr().out


def test_a_pool_finds_the_same(tmp_path: Path) -> None:
    folder(tmp_path, 6)
    (tmp_path / "images/train/2.png").write_bytes(b"")
    reports = []
    for workers in ("1", "3"):
        assert check("folder", tmp_path, "--workers", workers, "--json", tmp_path / "r.json") == 1
        reports.append((tmp_path / "r.json").read_text())
    assert reports[0] == reports[1]


def test_pool_keeps_order_and_reports_progress() -> None:
    done: list[int] = []
    assert each(np.square, 100, workers=2, progress=done.append) == [number**2 for number in range(100)]
    assert sum(done) == 100
    assert each(np.square, 0) == []
    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        each(np.square, 3, workers=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cityscape", "/x"), "did you mean cityscapes"),
        (("cityscapes", "/nowhere"), "there is no folder /nowhere"),
        (("cityscapes", "/nowhere", "--split", "vall"), "did you mean val"),
        (("cityscapes", "/x,split"), "is no option=value"),
    ],
)
def test_mistakes_end_with_a_sentence(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit, match=rf"dgseg data check: .*{message}"):
        check(*arguments)
