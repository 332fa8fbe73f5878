"""dgseg data stats: two distributions as a table and a picture."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dgseg.cli import main
from dgseg.data.datasets import open_dataset
from dgseg.data.statistics import shares
from dgseg.data.streets import Streets
from tests.data import trees
from tests.data.trees import ids

pytestmark = pytest.mark.filterwarnings("ignore::dgseg.data.dataset.DataWarning")


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    trees.gta5(tmp_path / "gta5", 2, (7, 7, 7, 23))
    for number in range(2):
        trees.image(tmp_path / f"mine/images/{number}.jpg", number)
        trees.grey(tmp_path / f"mine/labels/{number}.png", ids([0, 18, 255]))
    return f"gta5={tmp_path}/gta5@all", f"folder={tmp_path}/mine"


def test_table_plot_and_json(two: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot, table = tmp_path / "out/plot.png", tmp_path / "out/shares.json"
    assert main(["data", "stats", *two, "-o", str(plot), "--json", str(table)]) == 0
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["road", "75.000", "50.000", "0.67"] in rows
    assert ["sky", "25.000", "–", "–"] in rows
    assert ["bicycle", "–", "50.000", "–"] in rows
    with Image.open(plot) as picture:
        assert picture.size == (1800, 675)
    assert json.loads(table.read_text())[two[0]]["road"] == 0.75


def test_shares_sum_to_one(two: tuple[str, str], tmp_path: Path) -> None:
    assert shares(open_dataset("folder", tmp_path / "mine")).sum() == pytest.approx(1)


def test_sets_without_classes_have_no_distribution(
    two: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.image(tmp_path / "a/frames/x.jpg", 1)
    trees.grey(tmp_path / "a/frames/x.labels/labels_semantic.png", ids([0, 1, 2]))
    with pytest.raises(SystemExit, match="dgseg data stats: road_anomaly: its labels name no classes"):
        main(["data", "stats", two[0], f"road_anomaly={tmp_path}/a"])
    with pytest.raises(SystemExit, match="the same dataset"):
        main(["data", "stats", two[0], two[0]])


def test_a_picture_of_no_known_kind_is_refused_before_counting(
    two: tuple[str, str], tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(SystemExit, match=r"plot\.xyz must end in \.png, \.svg or \.pdf"):
        main(["data", "stats", *two, "-o", str(tmp_path / "plot.xyz")])
    assert not list(cache.iterdir())


def test_a_damaged_cache_is_counted_again(two: tuple[str, str], tmp_path: Path, cache: Path) -> None:
    dataset = open_dataset("folder", tmp_path / "mine")
    counts = dataset.class_pixels()
    (stored,) = (cache / "class_pixels").iterdir()
    stored.write_bytes(b"PK damaged")
    with pytest.warns(UserWarning, match="is damaged .* counting again"):
        assert (dataset.class_pixels() == counts).all()


def test_a_truncated_cache_is_counted_again(two: tuple[str, str], tmp_path: Path, cache: Path) -> None:
    dataset, scenes = open_dataset("folder", tmp_path / "mine"), Streets("fog", length=2, size=(16, 32))
    counts, of_scenes = dataset.class_pixels(), scenes.class_pixels()
    for stored in (cache / "class_pixels").iterdir():
        stored.write_bytes(stored.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="is damaged .* counting again"):
        assert (dataset.class_pixels() == counts).all()
    with pytest.warns(UserWarning, match="is damaged .* counting again"):
        assert (scenes.class_pixels() == of_scenes).all()


def test_a_cache_that_cannot_be_written_costs_no_result(
    two: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DGSEG_CACHE", str(tmp_path / "file"))
    for dataset in (open_dataset("folder", tmp_path / "mine"), Streets("fog", length=2, size=(16, 32))):
        with pytest.warns(UserWarning, match="let DGSEG_CACHE name a folder that you may write"):
            assert dataset.class_pixels().shape == (2, 19)
