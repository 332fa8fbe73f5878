"""Randomness comes from (seed, draw number) alone: the same pixels whoever draws, in whatever order, on any threads."""

import hashlib
import multiprocessing
import pickle
import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from dgseg.data import Draw, Sample
from dgseg.data.augment import HRDA, BlindNet, DAFormer, Pipeline, RealTime, Resize, Streets, Torchvision
from dgseg.data.sample import generator

PIPELINES = {
    "daformer": DAFormer((90, 160), (64, 64)).build(),
    "hrda": HRDA((120, 200), (96, 96)).build(),
    "streets": Streets(crop=(48, 96)).build(),
    "blindnet": BlindNet((64, 64)).build(),
    "realtime": RealTime((72, 128)).build(),
    "resize": Pipeline((Resize((50, 70), (0.5, 2.0), keep_ratio=True),)),
    "foreign": Pipeline((Torchvision(v2.Compose([v2.RandomResizedCrop(40), v2.RandomPhotometricDistort(p=1)])),)),
}


def scene(index: int) -> Sample:
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (3, 100, 180), np.uint8)
    label = rng.integers(0, 19, (10, 18), np.uint8).repeat(10, 0).repeat(10, 1)
    return Sample(torch.from_numpy(image), torch.from_numpy(label), f"scene/{index}")


def digest(task: tuple[str, int, int]) -> str:
    name, number, threads = task
    torch.set_num_threads(threads)
    draw = Draw(number, 0, number % 3, wanted_class=number % 19)
    views = PIPELINES[name](scene(draw.index), generator(7, number), draw)
    whole = hashlib.sha256()
    for view in views.values():
        whole.update(view.image.contiguous().numpy().tobytes() + view.label.contiguous().numpy().tobytes())
    return whole.hexdigest()


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PIPELINES)
def test_pixels_depend_on_the_draw_alone(name):
    here = [digest((name, number, 1)) for number in range(10)]
    assert len(set(here)) == 10
    random.seed(1)
    torch.manual_seed(99)
    np.random.seed(5)  # noqa: NPY002
    backwards = [digest((name, number, 2)) for number in reversed(range(10))]
    assert backwards[::-1] == here


def test_pixels_do_not_depend_on_workers():
    tasks = [(name, number, 1) for name in PIPELINES for number in range(4)]
    here = [digest(task) for task in tasks]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(2) as pool:
        assert pool.map(digest, tasks, chunksize=1) == here


@pytest.mark.parametrize("name", PIPELINES)
def test_global_random_states_are_neither_read_nor_changed(name):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    digest((name, 3, 1))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


def test_foreign_errors_restore_the_state_too():
    def fail(inputs):
        torch.rand(3)
        raise RuntimeError("no")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no"):
        Torchvision(fail)(scene(0), generator(0, 0), Draw(0, 0, 0))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="uint8"):
        Torchvision(v2.ToDtype(torch.float32, scale=True))(scene(0), generator(0, 0), Draw(0, 0, 0))


def test_pipelines_travel_by_pickle():
    pipeline = pickle.loads(pickle.dumps(PIPELINES["blindnet"]))
    assert pipeline == PIPELINES["blindnet"]


def test_views_differ_in_colours_only():
    views = PIPELINES["blindnet"](scene(1), generator(7, 1), Draw(1, 0, 1, wanted_class=3))
    original, augmented = views["original"], views["augmented"]
    assert torch.equal(original.label, augmented.label)
    assert original.size == augmented.size
    assert not torch.equal(original.image, augmented.image)


def test_a_pair_changes_nothing_in_the_view_that_baselines_train_on():
    draw = Draw(1, 0, 1, wanted_class=3)
    alone = BlindNet((64, 64), pair=False).build()(scene(1), generator(7, 1), draw)
    assert list(alone) == ["original"]
    assert torch.equal(
        alone["original"].image, PIPELINES["blindnet"](scene(1), generator(7, 1), draw)["original"].image
    )
