"""The papers' subsets: the same list from the same files and seed, and the classes that it should favour."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dgseg.cli import main
from dgseg.data import selection
from dgseg.data.dataset import DataError
from dgseg.data.datasets import open_dataset
from dgseg.data.datasets.cityscapes import TRAIN_CITIES
from dgseg.data.selection import CITIES_OF_2072, PRESETS, choose_rare, class_probabilities, select
from tests.data import trees

pytestmark = pytest.mark.filterwarnings("ignore::dgseg.data.dataset.DataWarning")


def test_class_probabilities_are_the_rare_class_softmax() -> None:
    pixels = np.array([[900, 90, 10, 0], [900, 90, 10, 0]])
    expected = np.array([np.exp(0.1 / 0.5), np.exp(0.91 / 0.5), np.exp(0.99 / 0.5), 0])
    assert np.allclose(class_probabilities(pixels, 0.5), expected / expected.sum())
    assert class_probabilities(pixels, 0.01).sum() == pytest.approx(1)


def test_rare_classes_first_and_nobody_twice() -> None:
    rng = np.random.default_rng(0)
    pixels = np.zeros((500, 4), np.int64)
    pixels[:, 0] = 1_000_000
    pixels[:40, 1] = 5_000
    pixels[40:90, 2] = 3_000
    pixels[90:, 3] = 2_999  # too few of it to count
    chosen = choose_rare(pixels, 90, rng)
    assert sorted(chosen) == list(range(90))
    # Both rare classes are drawn from the start, about evenly.
    early = np.array(chosen[:40])
    assert 10 <= (early < 40).sum() <= 30
    assert len(set(choose_rare(pixels, 300, np.random.default_rng(1)))) == 300


def test_too_few_images_is_an_error() -> None:
    with pytest.raises(DataError, match="only 2 images hold 3000 pixels of some class, 3 are wanted"):
        choose_rare(np.array([[3000, 0], [0, 3000], [10, 10]]), 3, np.random.default_rng(0))


def shrink(monkeypatch: pytest.MonkeyPatch, preset: str, count: int) -> None:
    small = {**vars(PRESETS[preset]), "count": count}
    monkeypatch.setitem(selection.PRESETS, preset, selection.Preset(**small))


@pytest.mark.parametrize("preset", ["gta5-2500", "gta5-rare-6000"])
def test_command_writes_a_list_that_the_dataset_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], preset: str
) -> None:
    root = tmp_path / "gta5"
    trees.gta5(root, 8)
    if preset == "gta5-rare-6000":
        for number in range(1, 9):  # 3,000 pixels of a class need a picture of some size
            trees.image(root / f"images/{number:05d}.png", number, (60, 60))
            trees.palette(root / f"labels/{number:05d}.png", trees.ids([7 if number < 6 else 33], (60, 60)))
    shrink(monkeypatch, preset, 3)
    for name, seed in (("a", "0"), ("b", "0"), ("c", "5")):
        assert main(["data", "select", preset, str(root), "-o", str(tmp_path / name), "--seed", seed]) == 0
    assert "3 images of gta5 (3 of all), seed 5" in capsys.readouterr().out
    first = (tmp_path / "a").read_text()
    assert first == (tmp_path / "b").read_text()
    assert first != (tmp_path / "c").read_text()
    header = json.loads(first.splitlines()[0].removeprefix("# dgseg "))
    assert (header["preset"], header["seed"], header["images"]) == (preset, 0, {"all": 3})
    chosen = open_dataset("gta5", root, "all", files=tmp_path / "a")
    assert [chosen.id(index) for index in range(3)] == first.splitlines()[1:]


def test_cityscapes_cities_sum_to_the_papers_number() -> None:
    assert sum(TRAIN_CITIES.values()) == 2975
    assert sum(TRAIN_CITIES[city] for city in CITIES_OF_2072) + 500 == 2072


def test_cityscapes_cities_and_val(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.cityscapes(tmp_path, "train", ("aachen", *CITIES_OF_2072), 2)
    trees.cityscapes(tmp_path, "val", ("lindau",), 3)
    with pytest.raises(SystemExit, match="2 images of hanover instead of 196"):
        main(["data", "select", "cityscapes-2072", str(tmp_path), "-o", str(tmp_path / "list.txt")])
    for city in CITIES_OF_2072:
        monkeypatch.setitem(TRAIN_CITIES, city, 2)
    shrink(monkeypatch, "cityscapes-2072", 23)
    assert main(["data", "select", "cityscapes-2072", str(tmp_path), "-o", str(tmp_path / "list.txt")]) == 0
    assert "(20 of train, 3 of val)" in capsys.readouterr().out
    train = open_dataset("cityscapes", tmp_path, "train", files=tmp_path / "list.txt")
    assert len(train) == 20
    assert not any("aachen" in train.id(index) for index in range(20))
    assert len(open_dataset("cityscapes", tmp_path, "val", files=tmp_path / "list.txt")) == 3


def test_too_small_a_dataset_is_an_error(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 2)
    with pytest.raises(DataError, match="gta5: 2 images, 2500 are to be chosen; unpack the whole dataset"):
        select("gta5-2500", tmp_path)
    with pytest.raises(SystemExit, match="takes its splits itself; drop @train"):
        main(["data", "select", "gta5-2500", f"{tmp_path}@train", "-o", str(tmp_path / "x")])
    for root, seed, message in (
        (tmp_path, "-1", "--seed must be at least 0"),
        (f"{tmp_path},seed=1", "0", "as --seed"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["data", "select", "gta5-2500", str(root), "--seed", seed, "-o", str(tmp_path / "x")])


def test_the_real_numbers_come_out_of_a_dataset_of_the_real_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draw at GTA5's size, with class frequencies like its own: 6,000 different images in a second."""
    rng = np.random.default_rng(0)
    frequent = rng.integers(0, 400_000, (24966, 11))
    rare = np.where(rng.random((24966, 8)) < [0.5, 0.3, 0.2, 0.1, 0.1, 0.05, 0.02, 0.01], 6000, 0)
    fake: Any = SimpleNamespace(
        name="gta5", class_pixels=lambda: np.hstack([frequent, rare]), id=str, __len__=lambda self: 24966
    )
    chosen = choose_rare(fake.class_pixels(), 6000, rng)
    assert len(set(chosen)) == 6000
    share = (rare > 0).mean(0)
    kept = (rare[chosen] > 0).mean(0)
    assert (kept > share).all()
    assert kept[-1] > 3 * share[-1]  # the rarest class: nearly all of its images
