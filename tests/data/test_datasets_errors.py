"""What is wrong with a folder is said with dataset, file and remedy."""

import os
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dgseg.data.dataset import CorruptFile, DataError, Dataset, DataWarning
from dgseg.data.datasets import DATASETS, from_spec, open_dataset, parse_spec
from dgseg.data.files import FileDataset
from dgseg.data.lists import read_list, write_list
from dgseg.data.sample import Sample
from tests.data import trees
from tests.data.trees import ids

pytestmark = pytest.mark.filterwarnings("ignore::dgseg.data.dataset.DataWarning")


def test_missing_root_names_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"cityscapes: there is no folder .*nowhere; pass the one that holds leftImg8bit/"
    ):
        open_dataset("cityscapes", tmp_path / "nowhere", "val")


def test_missing_split_folder(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path, "val")
    with pytest.raises(
        DataError, match=r"holds no leftImg8bit/train; pass the folder that the provider's archives unpack"
    ):
        open_dataset("cityscapes", tmp_path, "train")


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match=r"gta5: .*images holds no \*\.png; unpack the images there"):
        open_dataset("gta5", tmp_path, "all")


def test_empty_split_list(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 2)
    trees.gta5_split(tmp_path, [1, 2], [], [])
    with pytest.raises(DataError, match=r"gta5/val: the list of files is empty below .*; unpack"):
        open_dataset("gta5", tmp_path, "val")
    (tmp_path / "gtav_split_val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"gtav_split_val\.txt: the list is empty"):
        open_dataset("gta5", tmp_path, "val")


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3" + b" " * 116 + b"\0\2IM", b"garbage" * 40])
def test_split_mat_that_is_none(tmp_path: Path, content: bytes) -> None:
    trees.gta5(tmp_path, 2)
    (tmp_path / "split.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"split\.mat: .*(lists in text serve as well|download it again)"):
        open_dataset("gta5", tmp_path, "val")


def test_no_split_at_all(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 2)
    with pytest.raises(DataError, match=r"holds neither split\.mat .*or take split all"):
        open_dataset("gta5", tmp_path, "val")


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_missing_partner_in_either_direction(tmp_path: Path, missing: str) -> None:
    trees.gta5(tmp_path, 3)
    (tmp_path / missing / "00002.png").unlink()
    lacks = "has no image" if missing == "images" else "has no label"
    with pytest.raises(
        DataError, match=rf"gta5/all: 1 files have no partner: .*00002\.png {lacks} .*--quarantine bad\.txt"
    ):
        open_dataset("gta5", tmp_path, "all")
    lenient = open_dataset("gta5", tmp_path, "all", strict=False)
    assert isinstance(lenient, FileDataset)
    assert [sample for sample, _ in lenient.unpaired] == ["gta5/00002"]
    write_list(tmp_path / "bad.txt", lenient.unpaired, {})
    assert len(open_dataset("gta5", tmp_path, "all", quarantine=tmp_path / "bad.txt")) == 2


def test_unknown_id_names_the_file_and_what_is_valid(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    path = tmp_path / "gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png"
    trees.grey(path, ids([7, 200]))
    dataset = open_dataset("cityscapes", tmp_path, "val")
    with pytest.raises(
        CorruptFile,
        match=r"lindau_000001_000019_gtFine_labelIds\.png: cityscapes: labels hold 200; valid: 0–34, 255; map",
    ):
        dataset[3]


def test_label_ids_taken_for_train_ids_are_noticed(tmp_path: Path) -> None:
    trees.image(tmp_path / "images/a.png", 1)
    trees.grey(tmp_path / "labels/a.png", ids([7, 8, 26, 33]))
    with pytest.raises(
        CorruptFile, match=r"a\.png: folder: labels hold 26, 33; valid: 0–18, 254–255; map raw ids with a"
    ):
        open_dataset("folder", tmp_path)[0]


def test_size_mismatch(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 2)
    trees.palette(tmp_path / "labels/00002.png", ids([7], (6, 9)))
    with pytest.raises(
        CorruptFile, match=r"00002\.png: gta5: the label is 9×6, its image .*00002\.png 18×12; .*quarantine"
    ):
        open_dataset("gta5", tmp_path, "all")[1]


def test_truncated_file_names_itself_and_travels_by_pickle(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 2)
    path = tmp_path / "images/00001.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        CorruptFile, match=r"images/00001\.png: gta5: cannot be read: .*; unpack it again, or quarantine"
    ) as caught:
        open_dataset("gta5", tmp_path, "all")[0]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path) == (str(caught.value), str(path))


def test_vanished_file(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 2)
    dataset = open_dataset("gta5", tmp_path, "all")
    (tmp_path / "labels/00001.png").unlink()
    with pytest.raises(CorruptFile, match=r"labels/00001\.png: gta5: cannot be read: .*No such file"):
        dataset[0]


def test_unreadable_labels_are_not_counted_silently(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 3)
    (tmp_path / "labels/00002.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 3 labels cannot be read: .*00002\.png.*dgseg data check gta5"):
        open_dataset("gta5", tmp_path, "all").class_pixels()


def test_names_that_are_nearly_right(tmp_path: Path) -> None:
    trees.cityscapes(tmp_path)
    with pytest.raises(DataError, match="no dataset 'cityscape'; did you mean cityscapes"):
        open_dataset("cityscape", tmp_path)
    with pytest.raises(DataError, match=r"cityscapes has no split 'vall', but train, val, test; did you mean val\?"):
        open_dataset("cityscapes", tmp_path, "vall")
    with pytest.raises(DataError, match=r"has no option 'quarantin'; did you mean quarantine\?"):
        open_dataset("cityscapes", tmp_path, "val", quarantin="x")
    with pytest.raises(DataError, match="acdc has no condition 'dusk', but fog, night, rain, snow"):
        open_dataset("acdc", tmp_path, "val", condition="dusk")
    with pytest.raises(DataError, match="cityscapes: the provider ships no labels of test"):
        open_dataset("cityscapes", tmp_path, "test")
    with pytest.raises(DataError, match="needs the folder"):
        open_dataset("cityscapes", None)


def test_quarantine_and_choice(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 6)
    write_list(tmp_path / "bad.txt", [("gta5/00003", "a reason\nin two lines"), "gta5/00001"], {"quarantine": "gta5"})
    write_list(tmp_path / "some.txt", ["gta5/00003", "gta5/00004", "gta5/00005"], {"images": {"all": 3}})
    assert read_list(tmp_path / "bad.txt").ids == {"gta5/00003", "gta5/00001"}
    dataset = from_spec(f"gta5={tmp_path}@all,quarantine={tmp_path}/bad.txt,files={tmp_path}/some.txt")
    assert isinstance(dataset, FileDataset)
    assert dataset.ids() == ["gta5/00004", "gta5/00005"]
    assert repr(dataset) == "<gta5/all: 2 images, 2 quarantined>"
    write_list(tmp_path / "some.txt", ["gta5/00003"], {"images": {"val": 1}})
    with pytest.raises(DataError, match=r"some\.txt lists images of split val, not of all"):
        open_dataset("gta5", tmp_path, "all", files=tmp_path / "some.txt")
    (tmp_path / "hand.txt").write_text("gta5/00004\n\ngta5/99999\n")
    with pytest.raises(DataError, match=r"hand\.txt lists 2 images of this split, 1 are here \(not here: gta5/99999\)"):
        open_dataset("gta5", tmp_path, "all", files=tmp_path / "hand.txt")
    with pytest.raises(DataError, match=r"none\.txt: No such file .*; `dgseg data select`"):
        open_dataset("gta5", tmp_path, "all", quarantine=tmp_path / "none.txt")


def test_a_quarantine_of_another_dataset(tmp_path: Path) -> None:
    trees.gta5(tmp_path, 2)
    write_list(tmp_path / "bad.txt", ["folder/00001"], {"quarantine": "folder"})
    with pytest.raises(DataError, match=r"gta5: .*bad\.txt lists folder/00001, which is of another dataset; name the"):
        open_dataset("gta5", tmp_path, "all", quarantine=tmp_path / "bad.txt")
    (tmp_path / "bad.txt").write_bytes(b"gta5/\xe9")
    with pytest.raises(DataError, match=r"bad\.txt: no text; `dgseg data select` and"):
        open_dataset("gta5", tmp_path, "all", quarantine=tmp_path / "bad.txt")


@pytest.mark.parametrize("key", [b"caf\xe9", b"two\nlines", b"a\ttab", b"a space "])
@pytest.mark.parametrize("paired", [True, False])
def test_names_that_no_list_could_hold(tmp_path: Path, key: bytes, paired: bool) -> None:
    for folder, name in (("images", key), ("labels", key if paired else b"other")):
        trees.grey(tmp_path / folder / "x.png", ids([0]))
        (tmp_path / folder / "x.png").rename(tmp_path / folder / (os.fsdecode(name) + ".png"))
    with pytest.raises(DataError, match=r"folder: below .* is not plain text .*; rename it and its partner"):
        open_dataset("folder", tmp_path, strict=False)


def test_links(tmp_path: Path) -> None:
    trees.gta5(tmp_path / "real", 3)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part").symlink_to(tmp_path / "real" / folder)
        (tmp_path / "real" / folder / "back").symlink_to("..")
    dataset = open_dataset("folder", tmp_path, classes="cityscapes")
    assert isinstance(dataset, FileDataset)
    assert dataset.ids() == ["folder/part/00001", "folder/part/00002", "folder/part/00003"]
    (tmp_path / "real/labels/00002.png").unlink()
    (tmp_path / "real/labels/00002.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"1 of 3 labels cannot be read: .*00002\.png: folder: .*No such file"):
        dataset.class_pixels()


def test_specifications() -> None:
    spec = parse_spec("acdc=/data/a@b/acdc@val,condition=fog,labels=false,seed=3")
    assert (spec.name, spec.path, spec.split) == ("acdc", "/data/a@b/acdc", "val")
    assert spec.options == {"condition": "fog", "labels": "false", "seed": "3"}
    assert parse_spec("gta5=/data/me@home/gta5").split is None
    for wrong in ("gta5", "=x", "gta5=", "gta5=/x@", "gta5=/x,labels", "gta5=/x,labels="):
        with pytest.raises(DataError, match=r"write name=path|is no option=value"):
            parse_spec(wrong)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("streets=fog,size=256", "streets: size=256 is not HEIGHTxWIDTH, such as 256x512"),
        ("streets=fog,size=256x512x3", "size=256x512x3 is not HEIGHTxWIDTH"),
        ("streets=fog,seed=abc", "seed=abc is not a whole number"),
        ("streets=fog,length=1.5", "length=1.5 is not a whole number"),
        ("streets=fog,unknown=no", "unknown=no is not true or false"),
        ("streets=game,misalignment=far", "misalignment=far is not a number"),
        ("streets=game,misalignment=nan", "misalignment must be 0 to 64 pixels; it is nan"),
        ("streets=fog@train,use=oracle,use=adaptation", "gives use twice"),
        ("streets=fog@test,split=train", "split stands before the options"),
        ("streets=game@train,domain=fog,use=oracle", "names two domains"),
        ("gta5=/data/a,b", "a folder with a comma in its name needs a link without one"),
        ("folder=/x,root=/y", "root stands before the options"),
        ("folder=/x,labels=no", "folder: labels=no is not true or false"),
        ("packed=/x@val", "packed has no option 'split'"),
    ],
)
def test_what_a_specification_may_not_say(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_spec(spec)


def test_options_become_what_the_dataset_takes(tmp_path: Path) -> None:
    world = from_spec("streets=game,size=8x16,misalignment=1e-1,seed=007,unknown=false,length=3")
    assert (world.size, world.misalignment, world.seed, world.unknown, len(world)) == ((8, 16), 0.1, 7, False, 3)  # type: ignore[attr-defined]
    trees.gta5(tmp_path, 1)
    assert from_spec(f"folder={tmp_path},domain=2024,labels=false").domain == "2024"


class _World(Dataset):
    name = "world"

    def __init__(self, domain: str, split: str = "test", *, seed: int = 0) -> None:
        self.domain, self.split, self.seed = domain, split, seed

    def __len__(self) -> int:
        return 0

    def id(self, index: int) -> str:
        raise IndexError

    def __getitem__(self, index: int) -> Sample:
        raise IndexError

    def class_pixels(self) -> npt.NDArray[np.int64]:
        return np.zeros((0, 19), np.int64)


def test_a_domain_instead_of_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "world", f"{__name__}:_World")
    world = from_spec("world=fog@val,seed=3")
    assert isinstance(world, _World)
    assert (world.domain, world.split, world.seed) == ("fog", "val", 3)
    assert from_spec("world=fog").split == "test"  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="world has no files; leave the folder /x out"):
        open_dataset("world", "/x")
    with pytest.raises(DataError, match="world has no option 'labels'"):
        from_spec("world=fog,labels=false")


def test_own_folder_whose_names_end_differently(tmp_path: Path) -> None:
    trees.image(tmp_path / "images/a.jpg", 1)
    trees.grey(tmp_path / "labels/a_mask.png", ids([1]))
    with pytest.raises(DataError, match=r"a\.jpg has no label .*a_mask\.png has no image .*label_suffix=_mask\.png"):
        open_dataset("folder", tmp_path)
    assert len(open_dataset("folder", tmp_path, label_suffix="_mask.png")) == 1


def test_own_folder_with_colours_names_and_rest(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    trees.image(root / "images/train/deep/a.JPG", 1)
    colours = np.zeros((trees.HEIGHT, trees.WIDTH, 3), np.uint8)
    colours[0] = (128, 64, 128)
    colours[1] = (0, 0, 142)
    (root / "labels/train/deep").mkdir(parents=True)
    Image.fromarray(colours).save(root / "labels/train/deep/a.png")
    classes = tmp_path / "classes.json"
    classes.write_text('{"#804080": "road", "0,0,142": 13}')
    with pytest.raises(
        CorruptFile, match=r"a\.png: folder: labels hold #000000; valid: #00008e, #804080; name them in .*"
    ):
        open_dataset("folder", root, "train", classes=str(classes))[0]
    classes.write_text('{"#804080": "road", "0,0,142": 13, "*": "void"}')
    dataset = open_dataset("folder", root, "train", classes=str(classes))
    assert (dataset.id(0), dataset.domain) == ("folder/train/deep/a", "mine")
    label = dataset[0].label
    assert label is not None
    assert label[:3, 0].tolist() == [0, 13, 255]


def test_own_folder_with_other_suffixes_and_ids(tmp_path: Path) -> None:
    trees.image(tmp_path / "images/a_rgb.png", 1)
    trees.grey(tmp_path / "labels/a_ids.png", ids([1, 2]))
    (tmp_path / "c.json").write_text('{"1": "sky", "2": "out-of-distribution"}')
    spec = f"folder={tmp_path},image_suffix=_rgb.png,label_suffix=_ids.png,classes={tmp_path}/c.json,domain=mine"
    dataset = from_spec(spec)
    assert (dataset.id(0), dataset.domain) == ("folder/a", "mine")
    label = dataset[0].label
    assert label is not None
    assert label.flatten()[:2].tolist() == [10, 254]


def test_own_folder_honours_orientation_of_both(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder, mode, suffix in (("images", "RGB", "jpg"), ("labels", "L", "png")):
        (tmp_path / folder).mkdir()
        Image.new(mode, (8, 16)).save(tmp_path / folder / f"a.{suffix}", exif=exif)
    sample = open_dataset("folder", tmp_path)[0]
    assert sample.size == (8, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected {"),
        ("{}", "maps nothing"),
        ("{", "Expecting property name"),
        ('{"1": "raod"}', "'raod' is no class; classes: road, sidewalk"),
        ('{"1": 77}', "77 is no class"),
        ('{"1": "road", "#000000": "sky"}', "mixes ids and colours"),
        ('{"1,2,999": "sky"}', "is no colour"),
        ('{"-1": "sky"}', "is no id"),
    ],
)
def test_classes_files_that_are_wrong(tmp_path: Path, content: str, message: str) -> None:
    trees.image(tmp_path / "images/a.png", 1)
    trees.grey(tmp_path / "labels/a.png", ids([1]))
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(DataError, match=rf"c\.json: .*{message}.*own-data"):
        open_dataset("folder", tmp_path, classes=str(tmp_path / "c.json"))


def test_own_folder_that_is_laid_out_otherwise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images/; put the images there, and the label maps into labels/"):
        open_dataset("folder", tmp_path)
    trees.image(tmp_path / "images/a.png", 1)
    trees.image(tmp_path / "images/a.jpg", 1)
    trees.grey(tmp_path / "labels/a.png", ids([1]))
    with pytest.raises(DataError, match="holds a with two suffixes"):
        open_dataset("folder", tmp_path)


def test_complete_split_does_not_warn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    trees.image(tmp_path / "images/a.png", 1)
    trees.grey(tmp_path / "labels/a.png", ids([1]))
    open_dataset("folder", tmp_path)
    assert not [warning for warning in recwarn if issubclass(warning.category, DataWarning)]
