"""Packs under faults: flipped bytes, full disks, packers that meet or are killed."""

import copy
import multiprocessing
import resource
import shutil
import threading

import numpy as np
import pytest
import torch

from dgseg.data import Sample
from dgseg.data.dataset import CorruptFile, DataError
from dgseg.data.pack import Packed, Settings, pack
from dgseg.data.pack.layout import LOCK
from dgseg.generation import generate
from tests.data.folder import write_folder

SMALL = Settings(tile=(16, 16), samples_per_shard=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("source"), 5, (20, 33))


@pytest.fixture
def out(folder, tmp_path):
    pack(folder, tmp_path / "p", SMALL)
    return tmp_path / "p"


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir() if path.name != LOCK}


def everything(root):
    """All that a pack says."""
    packed = Packed(root)
    samples = [packed[index] for index in range(len(packed))]
    return (
        (packed.name, packed.domain, packed.num_classes, packed.class_pixels().tolist()),
        [(packed.size(index), packed.source_size(index)) for index in range(len(packed))],
        [[sample.id, sample.image.tolist(), sample.label.tolist()] for sample in samples],
    )


def outcome(root):
    """That, or why not."""
    try:
        return everything(root)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("name", ["index.npy", "class_pixels.npy", "ids.txt", "manifest.json", "shard-00001.dgs"])
def test_a_flipped_bit_is_noticed_or_harmless(out, name):
    truth, path, random = everything(out), out / name, np.random.default_rng(0)
    content = path.read_bytes()
    for where in [0, len(content) - 2, *random.integers(0, len(content), 40)]:
        damaged = bytearray(content)
        damaged[where] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        found = outcome(out)
        if name.startswith("shard"):
            assert found == truth or name in found, where
            with pytest.raises(CorruptFile, match=name):
                Packed(out).verify()
        else:
            assert name in found or "has pack format" in found, where


def test_the_remedy_for_a_damaged_manifest(folder, out):
    truth = contents(out)
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"domain": "folder"', '"domain": "colder"'))
    with pytest.raises(CorruptFile, match=r"manifest.json: is damaged. Delete it and run the same"):
        Packed(out)
    manifest.unlink()
    pack(folder, out, SMALL)
    assert contents(out) == truth


def test_a_pack_may_be_moved_and_needs_no_writing(out, tmp_path):
    truth = everything(out)
    (out / LOCK).unlink()
    shutil.move(out, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").iterdir():
        path.chmod(0o444)
    (tmp_path / "elsewhere").chmod(0o555)
    assert everything(tmp_path / "elsewhere") == truth
    (tmp_path / "elsewhere").chmod(0o755)


def _pack_onto_a_full_disk(source, out, most, workers, told):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        pack(source, out, SMALL, workers=workers)
        told.put("done")
    except Exception as error:
        told.put(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("most", [10, 2000], ids=["plan", "shard"])
def test_a_full_disk_leaves_nothing_half_written(folder, out, tmp_path, most):
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    process = context.Process(target=_pack_onto_a_full_disk, args=(folder, tmp_path / "q", most, 1, told))
    process.start()
    assert told.get(timeout=60).startswith("OSError")
    process.join()
    assert not list((tmp_path / "q").glob(".*.tmp"))
    pack(folder, tmp_path / "q", SMALL)
    assert contents(tmp_path / "q") == contents(out)


def test_a_run_killed_before_its_plan_was_written_goes_on(folder, out, tmp_path):
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / ".pack.json.123.tmp").write_bytes(b"{")
    (tmp_path / "q" / LOCK).touch()
    pack(folder, tmp_path / "q", SMALL)
    assert contents(tmp_path / "q") == contents(out)


def test_two_packers_do_not_share_a_folder(folder, out, tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    def wait(more):
        begun.set()
        assert go_on.wait(60)

    first = threading.Thread(target=pack, args=(folder, tmp_path / "q", SMALL), kwargs={"progress": wait})
    first.start()
    assert begun.wait(60)
    with pytest.raises(DataError, match="another process is packing"):
        pack(folder, tmp_path / "q", SMALL)
    go_on.set()
    first.join()
    assert contents(tmp_path / "q") == contents(out)
    pack(folder, tmp_path / "q", SMALL)  # the lock is free again


class Unreadable:
    """What the system says stays an OSError, which a command shows as one line."""

    name = domain = "unreadable"
    num_classes = 19

    def __len__(self):
        return 2

    def id(self, index):
        return f"unreadable/{index}"

    def __getitem__(self, index):
        if index:
            raise PermissionError(13, "Permission denied", "image.png")
        return Sample(torch.zeros(3, 4, 4, dtype=torch.uint8), None, self.id(index))


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_the_system_keep_their_kind(tmp_path, workers):
    with pytest.raises(OSError, match="Permission denied"):
        pack(Unreadable(), tmp_path / "p", Settings(samples_per_shard=1), workers=workers)


@pytest.mark.parametrize("climbing", ["../../escape", "/etc/escape", "a/../../b", "a\\..\\b"])
def test_ids_that_leave_their_folder_are_refused(folder, tmp_path, climbing):
    class Hostile(type(folder)):  # type: ignore[misc]
        def id(self, index):
            return climbing

    hostile = copy.copy(folder)
    hostile.__class__ = Hostile
    pack(hostile, tmp_path / "p", SMALL)
    packed = Packed(tmp_path / "p")
    with pytest.raises(DataError, match="could leave its folder"):
        packed.id(0)
    with pytest.raises(DataError, match="could leave its folder"):
        packed[0]
    with pytest.raises(DataError, match="could leave its folder"):
        generate(packed, tmp_path / "deep" / "er" / "out", lambda request: request)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]
