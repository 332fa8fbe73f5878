"""Packing and reading back, through real files in temporary folders."""

import json
import multiprocessing
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dgseg.cli import main
from dgseg.data import Box, Draw, Sample, from_spec
from dgseg.data.augment import DAFormer, Streets
from dgseg.data.dataset import CorruptFile, DataError
from dgseg.data.pack import Packed, Settings, pack
from dgseg.data.sample import generator
from tests.data.folder import Folder, write_folder

SIZE = (90, 140)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("source"), 11, SIZE)


SMALL = Settings(tile=(32, 48), samples_per_shard=4)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "pack"
    pack(folder, out, SMALL)
    return Packed(out)


def same(a: Sample, b: Sample) -> bool:
    return torch.equal(a.image, b.image) and torch.equal(a.label, b.label) and a.id == b.id


def test_reads_back_what_was_packed(folder, packed):
    assert (packed.name, packed.domain, len(packed), packed.num_classes) == (folder.name, folder.domain, 11, 19)
    for index in (0, 3, 4, 10):
        source, sample = folder[index], packed[index]
        assert sample.id == source.id == packed.id(index)
        assert sample.image.shape == source.image.shape
        assert (sample.image.float() - source.image.float()).abs().mean() < 4  # a JPEG of noisy pixels
        assert torch.equal(sample.label, source.label)
        assert torch.equal(packed.label(index), source.label)
        depth = sample.extra["depth"]
        assert depth.dtype == torch.float32
        assert torch.equal(depth, source.extra["depth"])
    assert np.array_equal(packed.class_pixels(), folder.class_pixels())
    with pytest.raises(IndexError, match="holds 11 samples"):
        packed[11]


def test_lossless(folder, tmp_path):
    pack(folder, tmp_path / "p", Settings(quality=None, tile=(32, 48)))
    sample, source = Packed(tmp_path / "p")[2], folder[2]
    assert same(sample, source)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_crop_is_a_crop_of_the_whole(packed, data):
    height, width = SIZE
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    index = data.draw(st.integers(0, len(packed) - 1))
    part, whole = packed.crop(index, box), packed[index].crop(box)
    assert same(part, whole)
    assert torch.equal(part.extra["depth"], whole.extra["depth"])


def test_box_outside_the_image_is_refused(packed):
    for box in (Box(0, 0, 91, 10), Box(-1, 0, 5, 5), Box(0, 0, 0, 5), Box(0, 139, 4, 2)):
        with pytest.raises(ValueError, match=r"reaches beyond|no part"):
            packed.crop(0, box)


def test_pipelines_give_the_same_pixels_lazily_and_plainly(packed):
    for preset in (
        Streets(crop=(48, 64)),
        DAFormer(size=(60, 100), crop=(40, 40)),
        DAFormer(crop=(128, 64), size=None),
    ):
        pipeline = preset.build()
        for number in range(20):
            draw = Draw(number, 0, number % len(packed), wanted_class=number % 5)
            plain = pipeline(packed[draw.index], generator(1, number), draw)["original"]
            lazy = pipeline(packed.lazy(draw.index), generator(1, number), draw)["original"]
            assert same(plain, lazy)


def test_resizes_and_records_the_source(folder, tmp_path):
    pack(folder, tmp_path / "p", Settings(size=(45, 60)))
    packed = Packed(tmp_path / "p")
    assert packed[1].size == packed.size(1) == (45, 60)
    assert packed.source_size(1) == SIZE
    assert packed.manifest["settings"]["size"] == [45, 60]
    assert packed.manifest["source"]["name"] == "folder"
    assert packed.class_pixels()[1].sum() == (packed[1].label < 19).sum()
    pack(folder, tmp_path / "k", Settings(size=(45, 60), keep_ratio=True))
    assert Packed(tmp_path / "k").size(0) == (39, 60)


class Mixed(Folder):
    """Images of several sizes, without labels."""

    def __getitem__(self, index: int) -> Sample:
        whole = super().__getitem__(index)
        return Sample(whole.image[:, : 20 + 7 * index, : 90 - 5 * index], None, whole.id)


def test_unlabelled_images_of_several_sizes(folder, tmp_path):
    source = Mixed(folder.root, 9)
    pack(source, tmp_path / "p", Settings(quality=None, tile=(16, 16)))
    packed = Packed(tmp_path / "p")
    assert not packed.class_pixels().any()
    pipeline = Streets(crop=(64, 64)).build()
    for index in range(9):
        assert packed.label(index) is None
        assert torch.equal(packed[index].image, source[index].image)
        draw = Draw(index, 0, index)
        lazy, plain = (
            pipeline(each, generator(0, index), draw)["original"] for each in (packed.lazy(index), source[index])
        )
        assert torch.equal(lazy.image, plain.image)
        assert lazy.size == (64, 64)


def test_workers_change_no_byte(folder, packed, tmp_path):
    seen = []
    pack(folder, tmp_path / "p", SMALL, workers=3, progress=seen.append)
    assert sum(seen) == 11
    for path in sorted(packed.root.iterdir()):
        assert (tmp_path / "p" / path.name).read_bytes() == path.read_bytes(), path.name


def test_pickles_are_small_and_survive_forks(packed):
    frozen = pickle.dumps(packed)
    assert len(frozen) < 500
    assert same(pickle.loads(frozen)[5], packed[5])
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:  # the children share the parent's open files
        told = pool.map(_sum_of, [(packed, index) for index in range(11)] * 3)
    assert told[:11] == told[11:22] == told[22:] == [int(packed[index].image.sum()) for index in range(11)]


def _sum_of(task) -> int:
    torch.set_num_threads(1)  # as a loader's workers do: the parent's OpenMP threads did not come along
    return int(task[0][task[1]].image.sum())


def test_more_shards_than_open_files(folder, tmp_path, monkeypatch):
    pack(folder, tmp_path / "p", Settings(samples_per_shard=1))
    packed = Packed(tmp_path / "p")
    monkeypatch.setattr(type(packed._files), "MOST", 3)
    for index in (*range(11), *range(11)):
        assert packed[index].id == folder.id(index)
    assert len(packed._files._open) == 3


@pytest.mark.parametrize("part", ["table", "label", "first tile", "last tile"])
def test_damage_is_named(folder, tmp_path, part):
    pack(folder, tmp_path / "p", SMALL)
    packed = Packed(tmp_path / "p")
    row = packed._index[6]
    where = {
        "table": row["offset"] + 2,
        "label": row["offset"] + row["head_bytes"] - 5,
        "first tile": row["offset"] + row["head_bytes"] + 30,
        "last tile": row["offset"] + row["bytes"] - 9,
    }[part]
    shard = tmp_path / "p" / "shard-00001.dgs"
    content = bytearray(shard.read_bytes())
    content[where] ^= 4
    shard.write_bytes(content)
    with pytest.raises(CorruptFile, match=rf"shard-00001.dgs: record 6 \({folder.id(6)}\) is damaged") as caught:
        packed[6]
    assert caught.value.path == str(shard)
    assert same(packed[5], packed.lazy(5).whole())  # its neighbours are well
    with pytest.raises(CorruptFile, match="record 6"):
        packed.verify()
    # The remedy that the message names.
    shard.unlink()
    (tmp_path / "p" / "manifest.json").unlink()
    pack(folder, tmp_path / "p", SMALL)
    Packed(tmp_path / "p").verify()


def test_truncated_shard(folder, tmp_path):
    pack(folder, tmp_path / "p", SMALL)
    open_before, unused_before = Packed(tmp_path / "p"), Packed(tmp_path / "p")
    shard = tmp_path / "p" / "shard-00002.dgs"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CorruptFile, match="too short"):
        open_before[10]
    with pytest.raises(CorruptFile, match=r"shard-00002.dgs: has 1000 bytes"):
        Packed(tmp_path / "p")
    shard.unlink()
    with pytest.raises(CorruptFile, match="is missing"):
        Packed(tmp_path / "p")
    with pytest.raises(CorruptFile, match="cannot be opened"):
        unused_before[10]


def test_partial_wrong_and_foreign_packs_are_refused(folder, packed, tmp_path):
    with pytest.raises(DataError, match="holds no pack"):
        Packed(tmp_path)

    def stop_at_five(more: int) -> None:
        done.append(more)
        if sum(done) == 5:
            raise KeyboardInterrupt

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "p", SMALL, progress=stop_at_five)
    with pytest.raises(DataError, match=r"not finished \(1 of 3 shards\).*again"):
        Packed(tmp_path / "p")
    with pytest.raises(DataError, match=r"settings.quality is 95 there and 80 now"):
        pack(folder, tmp_path / "p", Settings(tile=(32, 48), samples_per_shard=4, quality=80))
    with pytest.raises(DataError, match=r"source.samples is 11 there and 10 now"):
        pack(Folder(folder.root, 10), tmp_path / "p", SMALL)
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is no pack"):
        pack(folder, tmp_path / "q", SMALL)
    told = []
    pack(folder, tmp_path / "p", SMALL, progress=told.append)
    assert told[0] == 4  # what stood already
    assert sum(told) == 11
    assert same(Packed(tmp_path / "p")[9], packed[9])
    manifest = tmp_path / "p" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        Packed(tmp_path / "p")


def test_wrong_labels_are_refused(folder, tmp_path):
    root = write_folder(tmp_path / "s", 2, SIZE).root
    path = root / "label_00001.png"
    label = np.array(Image.open(path))
    label[3, 3] = 33
    Image.fromarray(label).save(path)
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"folder/00001: the label holds \[33\]"):
            pack(Folder(root, 2), tmp_path / f"p{workers}", Settings(samples_per_shard=1), workers=workers)
    with pytest.raises(DataError, match="empty"):
        pack(Folder(root, 0), tmp_path / "p", SMALL)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_time_it_goes_on(packed, tmp_path, workers):
    source = write_folder(tmp_path / "s", 30, SIZE)
    chosen = Settings(tile=(32, 48), samples_per_shard=2)
    out = tmp_path / "p"
    # A forked process could not use the fork server that packing in several processes starts.
    context = multiprocessing.get_context("fork" if workers == 1 else "forkserver")
    kills = 0
    for at_least in (1, 6) if workers == 1 else (3,):
        process = context.Process(target=pack, args=(source, out, chosen), kwargs={"workers": workers})
        process.start()
        while process.is_alive() and len(list(out.glob("shard-*.dgs"))) < at_least:
            time.sleep(0.002)
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills, "it was never killed in the middle"
    there = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.dgs")}
    pack(source, out, chosen)
    assert all((out / name).stat().st_mtime_ns == when for name, when in there.items())  # what stood was not redone
    assert not list(out.glob(".*.tmp"))
    pack(source, tmp_path / "q", chosen)
    for path in sorted((tmp_path / "q").iterdir()):
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_memory_does_not_grow(packed):
    def anonymous() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024

    def read(times: int) -> None:
        for number in range(times):
            packed.lazy(number % 11).crop(Box(number % 40, number % 70, 40, 60))

    read(100)
    before = anonymous()
    read(600)
    assert anonymous() - before < 2e6  # one sample is 60 kB, 600 are 36 MB


def test_of_the_streets_world_only_sources_are_packed(tmp_path):
    for domain in ("fog", "dusk"):
        spec = f"streets={domain}@test,size=8x16,length=2"
        with pytest.raises(SystemExit, match=f"{domain} of the streets world is not packed.*game and generated"):
            main(["data", "pack", spec, "-o", str(tmp_path / domain), "--workers", "1"])
        assert not (tmp_path / domain).exists()
    source = from_spec("streets=game@train,size=8x16,length=2")
    pack(source, tmp_path / "game", Settings(quality=None))
    assert same(Packed(tmp_path / "game")[1], source[1])


def test_command_line(folder, tmp_path, capsys):
    for kind in ("image", "label"):
        (tmp_path / "own" / f"{kind}s").mkdir(parents=True)
        for index in range(5):
            own = tmp_path / "own" / f"{kind}s" / f"{index}.png"
            own.write_bytes((folder.root / f"{kind}_{index:05d}.png").read_bytes())
    arguments = ["data", "pack", f"folder={tmp_path / 'own'}", "-o", str(tmp_path / "p"), "--workers", "1"]
    assert main([*arguments, "--size", "45x60", "--quality", "lossless", "--verify"]) == 0
    assert "5 samples, 1 shards" in capsys.readouterr().out
    packed = from_spec(f"packed={tmp_path / 'p'}")
    assert isinstance(packed, Packed)
    assert packed.size(0) == (45, 60)
    with pytest.raises(SystemExit, match=r"settings\.quality is None there and 95 now"):
        main([*arguments, "--size", "45x60"])
    for wrong in (["--size", "45"], ["--quality", "0"], ["--size", "0x5"], ["--keep-ratio"], ["--workers", "0"]):
        with pytest.raises(SystemExit):
            main([*arguments, *wrong])
