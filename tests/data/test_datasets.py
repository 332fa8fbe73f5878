"""Every provider's layout, written in miniature with real codecs and read back."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from dgseg.data.dataset import Dataset, DataWarning
from dgseg.data.datasets import DATASETS, dataset_class, open_dataset
from dgseg.data.files import FileDataset
from dgseg.data.labels import CITYSCAPES_TO_TRAIN, NUM_CLASSES
from tests.data import trees
from tests.data.trees import HEIGHT, WIDTH, ids

pytestmark = pytest.mark.filterwarnings("ignore::dgseg.data.dataset.DataWarning")


def label_of(dataset: Dataset, index: int = 0) -> list[int]:
    """The train ids of the first pixels: raw ids 0, 1, 2 … in the trees."""
    sample = dataset[index]
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    assert sample.image.dtype == torch.uint8
    assert sample.label is not None
    assert sample.label.shape == (HEIGHT, WIDTH)
    assert sample.label.dtype == torch.uint8
    return sample.label.flatten().tolist()


def test_gta5_reads_palette_indices_and_the_official_split(tmp_path: Path) -> None:
    trees.gta5(tmp_path)
    trees.image(tmp_path / "images/00001.png", 1)
    # Converted labels that other tools leave beside the originals are no labels of their own.
    trees.grey(tmp_path / "labels/00001_labelTrainIds.png", ids([0]))
    trees.gta5_split(tmp_path, train=[1, 2, 3], val=[4, 5], test=[6])
    sizes = {split: len(open_dataset("gta5", tmp_path, split)) for split in ("train", "val", "test", "all")}
    assert sizes == {"train": 3, "val": 2, "test": 1, "all": 6}
    dataset = open_dataset("gta5", tmp_path, "val")
    assert dataset.id(0) == "gta5/00004"
    assert label_of(dataset)[:35] == [*CITYSCAPES_TO_TRAIN[:34].tolist(), 255]
    pixels = trees.image(tmp_path / "images/00004.png", 4)
    assert np.array_equal(dataset[0].image.permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("compressed", [True, False])
def test_gta5_split_mat_uncompressed_too(tmp_path: Path, compressed: bool) -> None:
    trees.gta5(tmp_path, 3)
    trees.gta5_split(tmp_path, [2], [1, 3], [], compressed=compressed)
    assert list(open_dataset("gta5", tmp_path, "val").ids()) == ["gta5/00001", "gta5/00003"]  # type: ignore[attr-defined]


def test_gta5_takes_lists_in_text(tmp_path: Path) -> None:
    trees.gta5(tmp_path)
    (tmp_path / "gtav_split_val.txt").write_text("00002.png\n00005.png\n")
    assert len(open_dataset("gta5", tmp_path, "val")) == 2


def test_synthia_reads_the_first_channel_of_16_bit_colour(tmp_path: Path) -> None:
    for number in range(3):
        trees.image(tmp_path / f"RGB/{number:07d}.png", number)
        trees.deep_colour(tmp_path / f"GT/LABELS/{number:07d}.png", ids([*range(23)]))
    (tmp_path / "synthia_split_val.txt").write_text("0000001.png\n")
    every = [255, 10, 2, 0, 1, 4, 8, 5, 13, 7, 11, 18, 17, 255, 255, 6, 9, 12, 14, 15, 16, 3, 255]
    assert label_of(open_dataset("synthia", tmp_path))[:23] == every
    sixteen = [255 if train_id in (9, 14, 16) else train_id for train_id in every]
    val = open_dataset("synthia", tmp_path, "val", classes=16)
    assert label_of(val)[:23] == sixteen
    assert [val.id(index) for index in range(len(val))] == ["synthia/0000001"]


def test_cityscapes_names_city_and_image(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    dataset = open_dataset("cityscapes", tmp_path, "val")
    assert len(dataset) == 4
    assert dataset.id(0) == "cityscapes/frankfurt/frankfurt_000000_000019"
    assert label_of(dataset)[:35] == [*CITYSCAPES_TO_TRAIN[:34].tolist(), 255]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("seg/images/val/7d2f7975.jpg", "seg/labels/val/7d2f7975_train_id.png"),
        ("images/10k/val/7d2f7975.jpg", "labels/sem_seg/masks/val/7d2f7975.png"),
    ],
)
def test_bdd100k_in_both_layouts(tmp_path: Path, image: str, label: str) -> None:
    trees.image(tmp_path / image, 1)
    trees.grey(tmp_path / label, ids([*range(19), 255]))
    dataset = open_dataset("bdd100k", tmp_path, "val")
    assert dataset.id(0) == "bdd100k/7d2f7975"
    assert label_of(dataset)[:20] == [*range(19), 255]


@pytest.mark.parametrize("labels", ["validation/labels", "validation/v1.2/labels"])
def test_mapillary_palette(tmp_path: Path, labels: str) -> None:
    trees.image(tmp_path / "validation/images/aBc-D_9.jpg", 1)
    trees.palette(tmp_path / labels / "aBc-D_9.png", ids([*range(66)]))
    label = label_of(open_dataset("mapillary", tmp_path, "val"))
    named = {
        13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8, 29: 9, 27: 10, 19: 11,
        20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17, 52: 18,
    }  # fmt: skip
    assert label[:66] == [named.get(raw, 255) for raw in range(66)]


def acdc(root: Path, suffix: str, raw: list[int], below: tuple[str, str] = ("", "")) -> None:
    for condition in ("fog", "night", "rain", "snow"):
        stem = f"{condition}/val/GOPR0476/GOPR0476_frame_000854"
        trees.image(root / below[0] / f"rgb_anon/{stem}_rgb_anon.png", trees.hash_of(stem))
        trees.grey(root / below[1] / f"gt/{stem}{suffix}", ids(raw))
        trees.grey(root / below[1] / f"gt/{stem}_gt_invIds.png", ids([0]))


@pytest.mark.parametrize("below", [("", ""), ("rgb_anon_trainvaltest", "gt_trainval")])
def test_acdc_by_condition(tmp_path: Path, below: tuple[str, str]) -> None:
    acdc(tmp_path, "_gt_labelTrainIds.png", [*range(19), 255], below)
    every = open_dataset("acdc", tmp_path, "val")
    assert isinstance(every, FileDataset)
    assert (len(every), every.domain, every.expected()) == (4, "acdc", 406)
    night = open_dataset("acdc", tmp_path, "val", condition="night")
    assert isinstance(night, FileDataset)
    assert (len(night), night.domain, night.expected()) == (1, "acdc/night", 106)
    assert night.id(0) == "acdc/night/GOPR0476/GOPR0476_frame_000854"
    assert label_of(night)[:20] == [*range(19), 255]


def test_acdc_from_label_ids(tmp_path: Path) -> None:
    acdc(tmp_path, "_gt_labelIds.png", [*range(34)])
    assert label_of(open_dataset("acdc", tmp_path, "val"))[:34] == CITYSCAPES_TO_TRAIN[:34].tolist()


def test_dark_zurich(tmp_path: Path) -> None:
    stem = "val/night/GOPR0356/GOPR0356_frame_000321"
    trees.image(tmp_path / f"rgb_anon/{stem}_rgb_anon.png", 1)
    trees.grey(tmp_path / f"gt/{stem}_gt_labelTrainIds.png", ids([*range(19), 255]))
    trees.grey(tmp_path / f"gt/{stem}_gt_labelIds.png", ids([*range(34)]))
    trees.grey(tmp_path / f"gt/{stem}_gt_invIds.png", ids([0]))
    assert label_of(open_dataset("dark_zurich", tmp_path))[:20] == [*range(19), 255]
    trees.image(tmp_path / "rgb_anon/train/day/GOPR0345/GOPR0345_frame_000001_rgb_anon.png", 2)
    day = open_dataset("dark-zurich", tmp_path, "train", time="day", labels=False)
    assert day[0].label is None
    with pytest.raises(ValueError, match="open it with labels=False"):
        open_dataset("dark_zurich", tmp_path, "train")


def test_generated_sets_store_void_as_19_only_when_told(tmp_path: Path) -> None:
    trees.image(tmp_path / "images/00001_genid0.png", 1)
    trees.grey(tmp_path / "labels/00001_genid0_labelTrainIds.png", ids([*range(20)]))
    (tmp_path / "jobs.json").write_text("[]")
    with pytest.raises(ValueError, match=r"labels hold 19; valid: 0–18, 254–255; .*void=19"):
        open_dataset("generated", tmp_path)[0]
    assert label_of(open_dataset("generated", tmp_path, void=19))[:20] == [*range(19), 255]
    with pytest.raises(ValueError, match="void=3 is a class"):
        open_dataset("generated", tmp_path, void=3)


def test_road_anomaly(tmp_path: Path) -> None:
    trees.image(tmp_path / "frames/animals01.jpg", 1)
    trees.grey(tmp_path / "frames/animals01.labels/labels_semantic.png", ids([0, 1, 2]))
    trees.grey(tmp_path / "frames/animals01.labels/labels_instance.png", ids([7]))
    sample = open_dataset("road_anomaly", tmp_path)[0]
    assert sample.label is not None
    assert sample.label.flatten()[:3].tolist() == [255, 255, 254]
    assert sample.extra["out_of_distribution"].flatten()[:3].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("name", "stem", "suffix"), [("smiyc_ra21", "validation0000", ".jpg"), ("smiyc_ro21", "validation_1", ".webp")]
)
def test_segment_me_if_you_can(tmp_path: Path, name: str, stem: str, suffix: str) -> None:
    trees.image(tmp_path / f"images/{stem}{suffix}", 1)
    trees.image(tmp_path / f"images/airplane0001{suffix}", 2)
    trees.grey(tmp_path / f"labels_masks/{stem}_labels_semantic.png", ids([0, 1, 255]))
    trees.palette(tmp_path / f"labels_masks/{stem}_labels_semantic_color.png", ids([0, 1, 2]))
    val = open_dataset(name, tmp_path)
    assert [val.id(index) for index in range(len(val))] == [f"{name}/{stem}"]
    sample = val[0]
    assert sample.label is not None
    assert sample.label.flatten()[:3].tolist() == [255, 254, 255]
    assert sample.extra["out_of_distribution"].flatten()[:3].tolist() == [0, 1, 255]
    test = open_dataset(name, tmp_path, "test", labels=False)
    assert [test.id(index) for index in range(len(test))] == [f"{name}/airplane0001"]


def test_acdc_poc(tmp_path: Path) -> None:
    for condition in ("fog", "night", "rain", "snow"):
        stem = f"{condition}/val/GOPR0476/GOPR0476_frame_000854_rgb_anon.png"
        trees.image(tmp_path / "rgb_anon_trainvaltest/rgb_anon" / stem, 1)
        trees.grey(tmp_path / "gt_trainval/gt" / stem, ids([0, 3, 7, 33, 100, 124]))
    sample = open_dataset("acdc_poc", tmp_path, condition="fog")[0]
    assert sample.label is not None
    assert sample.label.flatten()[:6].tolist() == [255, 255, 0, 18, 254, 254]
    assert sample.extra["out_of_distribution"].flatten()[:6].tolist() == [255, 0, 0, 0, 1, 1]
    assert open_dataset("acdc_poc", tmp_path, condition="fog").domain == "acdc_poc/fog"


@pytest.mark.parametrize(("split", "folder"), [("train", "train"), ("test", "test_sets/test_OOD")])
@pytest.mark.parametrize(("image", "label"), [("_leftImg8bit", "_leftLabel"), ("", "")])
def test_muad(tmp_path: Path, split: str, folder: str, image: str, label: str) -> None:
    trees.image(tmp_path / folder / f"leftImg8bit/000001{image}.png", 1)
    trees.grey(tmp_path / folder / f"leftLabel/000001{label}.png", ids([*range(22), 255]))
    sample = open_dataset("muad", tmp_path, split)[0]
    assert sample.label is not None
    assert sample.label.flatten()[:23].tolist() == [*range(19), 254, 254, 255, 255]
    assert sample.extra["out_of_distribution"].flatten()[:23].tolist() == [0] * 19 + [1, 1, 255, 255]
    assert sample.id == f"muad/{split}/000001"


def test_sizes_are_those_that_the_providers_ship() -> None:
    def splits(name: str) -> dict[str, int | None]:
        kind = dataset_class(name)
        assert issubclass(kind, FileDataset)
        return dict(kind.splits)

    assert splits("gta5") == {"train": 12403, "val": 6382, "test": 6181, "all": 12403 + 6382 + 6181}
    assert splits("synthia")["val"] == 2820
    evaluated = {"acdc": 406, "dark_zurich": 50, "cityscapes": 500, "bdd100k": 1000, "mapillary": 2000}
    assert {name: splits(name)["val"] for name in evaluated} == evaluated
    for name in DATASETS:
        if name not in ("streets", "packed"):
            assert getattr(dataset_class(name), "name") == name  # noqa: B009


def test_another_number_of_files_than_shipped_warns(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    with pytest.warns(DataWarning, match="cityscapes/val: 4 images .*ships 500; unpack what is missing"):
        open_dataset("cityscapes", tmp_path, "val")


def test_without_labels_only_images_are_needed(tmp_path: Path) -> None:
    trees.image(tmp_path / "leftImg8bit/test/berlin/berlin_0_leftImg8bit.png", 1)
    dataset = open_dataset("cityscapes", tmp_path, "test", labels=False)
    assert dataset[0].label is None
    assert len(dataset) == 1
    with pytest.raises(ValueError, match="labels=False"):
        dataset.class_pixels()


def test_travels_to_workers_small(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 50)
    trees.gta5_split(tmp_path, list(range(1, 51)), [], [])
    dataset = open_dataset("gta5", tmp_path, "train")
    small = pickle.dumps(dataset)
    assert len(small) < 3000
    again = pickle.loads(small)
    assert torch.equal(again[7].image, dataset[7].image)


def test_class_pixels_are_counted_once(tmp_path: Path, cache: Path) -> None:
    trees.gta5(tmp_path, 3)
    dataset = open_dataset("gta5", tmp_path, "all")
    counts = dataset.class_pixels()
    label = dataset[0].label
    assert label is not None
    assert counts.dtype == np.int64
    assert counts.shape == (3, NUM_CLASSES)
    assert counts[0].tolist() == np.bincount(label.flatten(), minlength=256)[:NUM_CLASSES].tolist()
    (stored,) = (cache / "class_pixels").iterdir()
    before = stored.stat().st_mtime_ns
    assert np.array_equal(open_dataset("gta5", tmp_path, "all").class_pixels(), counts)
    assert stored.stat().st_mtime_ns == before
    trees.palette(tmp_path / "labels/00002.png", ids([7]))  # another label: another count
    assert open_dataset("gta5", tmp_path, "all").class_pixels()[1].tolist() == [HEIGHT * WIDTH] + [0] * 18
