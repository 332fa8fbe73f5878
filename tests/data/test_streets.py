"""The streets world: what is fixed to the bit, what may be drawn by whom, what a scene must hold."""

import hashlib
import itertools
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg import _host
from dgseg.data.dataset import DataError
from dgseg.data.labels import CLASSES, NUM_CLASSES
from dgseg.data.streets import ADVERSE, DOMAINS, SOURCES, SPLITS, TARGETS, VALIDATION, Streets

ROOT = Path(__file__).resolve().parents[2]

# (domain, seed, index, size, misalignment, unknown) -> SHA-256 of label, image and depth. Another hash is another
# world, whose results do not compare with those of this one.
GOLDEN = {
    ("game", 0, 2000000, (128, 256), 0.0, False): "dcdacd973cc4ef08",
    ("generated", 0, 2000000, (128, 256), 0.0, False): "2e42de33ac003359",
    ("city", 0, 2000000, (128, 256), 0.0, False): "a818b8ff85d4cc97",
    ("country", 0, 2000000, (128, 256), 0.0, False): "4eb2dd0cd1fb4786",
    ("suburb", 0, 2000000, (128, 256), 0.0, False): "513e70d9c54add4a",
    ("fog", 0, 2000000, (128, 256), 0.0, False): "6d9b00d9403fed23",
    ("rain", 0, 2000000, (128, 256), 0.0, False): "a47018fef85db695",
    ("snow", 0, 2000000, (128, 256), 0.0, False): "492b23ae743d1d4b",
    ("night", 0, 2000000, (128, 256), 0.0, False): "bf89d59be1c83418",
    ("dusk", 0, 2000000, (128, 256), 0.0, False): "96208384d55dbe8f",
    ("game", 1, 7, (256, 512), 0.0, False): "1b498b475c5e0b93",
    ("night", 9223372036854775813, 999999, (96, 96), 0.0, True): "8e32b7682bf7006c",
    ("generated", 3, 12, (192, 384), 3.0, False): "65d5b00715e3999d",
    ("rain", 0, 1, (33, 65), 0.0, False): "6777d51ed6bce01d",
    ("snow", 9, 2999999, (150, 100), 0.0, True): "f3a0d3be3b8b775a",
    ("fog", 0, 3, (32, 64), 0.0, True): "c16bed09012b65d1",
}  # fmt: skip


def fingerprint(case: tuple[str, int, int, tuple[int, int], float, bool]) -> str:
    domain, seed, index, (height, width), misalignment, unknown = case
    maps = _host.render_street(
        DOMAINS.index(domain), seed, index, height, width, misalignment=misalignment, unknown=unknown, depth=True
    )
    digest = hashlib.sha256()
    for part in maps:
        digest.update(part.tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_every_bit_is_fixed(case):
    assert fingerprint(case) == GOLDEN[case]


def test_instruction_sets_agree():
    script = "from tests.data.test_streets import GOLDEN, fingerprint; print([fingerprint(c) for c in GOLDEN])"
    for isa in ("baseline", "avx2"):
        environment = os.environ | {"DGSEG_ISA": isa, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(list(GOLDEN.values())), isa


@settings(max_examples=25, deadline=None)
@given(
    domain=st.sampled_from(DOMAINS),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2_999_999),
    height=st.integers(1, 90),
    width=st.integers(1, 120),
    unknown=st.booleans(),
)
def test_any_scene_of_any_size_is_whole(domain, seed, index, height, width, unknown):
    arguments = (DOMAINS.index(domain), seed, index, height, width)
    label, image, depth = _host.render_street(*arguments, unknown=unknown, depth=True)
    assert label.shape == depth.shape == (height, width)
    assert image.shape == (3, height, width)
    assert set(np.unique(label)) <= set(range(NUM_CLASSES)) | ({254} if unknown else set())
    assert np.isfinite(depth).all()
    # The sky, and nothing else, has no depth.
    np.testing.assert_array_equal(depth == 0, label == CLASSES.index("sky"))
    # The labels alone, and the labels of an image that strays from them, are the same plan.
    np.testing.assert_array_equal(_host.render_street(*arguments, unknown=unknown, image=False)[0], label)
    np.testing.assert_array_equal(_host.render_street(*arguments, unknown=unknown, misalignment=3)[0], label)


def test_order_and_threads_change_nothing():
    dataset = Streets("rain", length=12, size=(64, 128))
    one_by_one = [dataset[index].image for index in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: dataset[index].image, reversed(range(12))))
    assert all(torch.equal(a, b) for a, b in zip(one_by_one, reversed(together), strict=True))


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_class_occurs_in_every_domain(domain):
    use = "oracle" if domain in TARGETS else None
    split = "val" if domain == VALIDATION else "train"
    dataset = Streets(domain, split, size=(64, 128), length=100, use=use)
    with_class = sum((np.bincount(dataset._render(i, image=False)[0].ravel(), minlength=19) > 0) for i in range(100))
    assert (with_class >= 5).all(), dict(zip(CLASSES, with_class, strict=True))


def test_misalignment_moves_the_image_about_as_far_as_it_says():
    aligned = Streets("generated", length=6)
    strayed = Streets("generated", length=6, misalignment=4.0)
    for index in range(6):
        assert torch.equal(aligned[index].label, strayed[index].label)
        assert not torch.equal(aligned[index].image, strayed[index].image)
    from scipy.ndimage import map_coordinates

    # Undoing the right displacement by brute force: blocks of the strayed image are found again within 2 x 4 pixels.
    before, after = (d[0].image.float().mean(0).numpy() for d in (aligned, strayed))
    rows, columns = np.mgrid[0:24, 0:24]
    shifts = []
    for y in range(60, 200, 35):
        for x in range(40, 440, 50):
            block = after[y : y + 24, x : x + 24]
            if block.std() < 20:
                continue
            errors = {
                (dy, dx): np.abs(map_coordinates(before, [rows + y + dy, columns + x + dx], order=0) - block).mean()
                for dy in range(-10, 11)
                for dx in range(-10, 11)
            }
            shifts.append(max(map(abs, min(errors, key=errors.get))))
    assert len(shifts) >= 5
    assert 1 <= np.median(shifts) <= 8


# ---- rules --------------------------------------------------------------------------------------------------------


def test_splits_are_disjoint():
    ranges = list(SPLITS.values())
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
    ids = {s: Streets("game", s, length=3).id(0) for s in SPLITS}
    assert ids == {"train": "streets/game/0/0", "val": "streets/game/0/1000000", "test": "streets/game/0/2000000"}


@pytest.mark.parametrize("domain", TARGETS)
def test_a_target_is_scored_and_not_trained_on(domain):
    assert Streets(domain, "test", length=1, size=(32, 64))[0].label is not None
    for use in (None, "training", ""):
        with pytest.raises(DataError, match=r"oracle.*adaptation"):
            Streets(domain, "train", use=use)
    for use in (None, "oracle"):
        with pytest.raises(DataError, match="dusk" if use is None else "leave it out"):
            Streets(domain, "val", use=use)
    with pytest.raises(DataError, match="leave it out"):
        Streets(domain, "test", use="oracle")
    oracle, adaptation = (Streets(domain, "train", use=use, size=(32, 64)) for use in ("oracle", "adaptation"))
    assert oracle[5].label is not None
    assert adaptation[5].label is None
    assert torch.equal(oracle[5].image, adaptation[5].image)
    with pytest.raises(DataError, match="without labels"):
        adaptation.class_pixels()
    with pytest.raises(DataError, match="depth"):
        Streets(domain, "train", use="adaptation", depth=True)


def test_sources_and_dusk():
    for domain in SOURCES:
        for split in SPLITS:
            assert len(Streets(domain, split)) > 0
    assert len(Streets(VALIDATION, "val")) == 100
    with pytest.raises(DataError, match="train on game or generated"):
        Streets(VALIDATION, "train")
    assert set(SOURCES) | set(TARGETS) | {VALIDATION} == set(DOMAINS)
    assert set(ADVERSE) < set(TARGETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "desert"}, "game, generated"),
        ({"domain": "game", "split": "training"}, "train, val, test"),
        ({"domain": "game", "size": (0, 64)}, "height, width"),
        ({"domain": "game", "length": 0}, "1 to 1000000"),
        ({"domain": "game", "seed": -1}, "seed must be"),
        ({"domain": "game", "misalignment": -1.0}, "0 to 64"),
        ({"domain": "game", "misalignment": float("nan")}, "0 to 64"),
        ({"domain": "fog", "misalignment": 2.0}, "for the sources"),
    ],
)
def test_wrong_arguments_say_what_to_change(arguments, message):
    with pytest.raises(DataError, match=message):
        Streets(**arguments)


def test_an_index_beyond_the_end_is_an_error_and_iteration_stops():
    dataset = Streets("game", length=3, size=(32, 64))
    with pytest.raises(IndexError):
        dataset[3]
    assert len([dataset[index].id for index in range(len(dataset))]) == 3


# ---- as a dataset --------------------------------------------------------------------------------------------------


def test_it_travels_by_pickle():
    dataset = Streets("generated", "train", size=(48, 96), misalignment=1.5, unknown=True, depth=True)
    again = pickle.loads(pickle.dumps(dataset))
    a, b = dataset[7], again[7]
    assert a.id == b.id == "streets/generated@1.5px+unknown/0/7"
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.extra["depth"], b.extra["depth"])


def test_class_pixels_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DGSEG_CACHE", str(tmp_path))
    dataset = Streets("snow", length=9, size=(48, 96))
    counts = dataset.class_pixels()
    labels = [dataset[index].label for index in range(9)]
    expected = np.stack([np.bincount(label.flatten().numpy(), minlength=256)[:NUM_CLASSES] for label in labels])
    np.testing.assert_array_equal(counts, expected)
    (cached,) = tmp_path.rglob("*.npz")
    before = cached.stat().st_mtime_ns
    np.testing.assert_array_equal(dataset.class_pixels(), counts)
    assert cached.stat().st_mtime_ns == before
    Streets("snow", length=9, size=(48, 96), seed=1).class_pixels()
    assert len(list(tmp_path.rglob("*"))) == 3  # the folder and two files: nothing half-written is left


def test_unknown_objects_are_labelled_254():
    plain, unknown = (Streets("night", length=8, size=(128, 256), unknown=flag) for flag in (False, True))
    seen = 0
    for index in range(8):
        a, b = plain[index].label, unknown[index].label
        seen += int((b == 254).any())
        assert torch.equal(a[b != 254], b[b != 254])
    assert seen >= 6


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS)
def test_forty_scenes_a_second_on_one_core(domain):
    # The thread's own time: other work on the machine counts little.
    dataset = Streets(domain, "val" if domain == VALIDATION else "test", length=20)
    start = time.thread_time()
    for index in range(20):
        dataset[index]
    assert 20 / (time.thread_time() - start) >= 40
