"""Pairs: one geometry for both pictures, labels of their own, from the streets world and from disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from dgseg.data import Draw, LazySample, Loader, Sample, Target, from_spec, open_dataset
from dgseg.data.augment import BlindNet, Colour, ColourJitter, Crop, Flip, Pad, Pipeline, Resize, Torchvision
from dgseg.data.augment import Streets as StreetsAugmentation
from dgseg.data.cutpaste import CutPaste, drawn, pasted
from dgseg.data.dataset import DataError
from dgseg.data.pack import Settings, pack
from dgseg.data.samplers import Mixture, Uniform
from dgseg.data.streets import SHIFTS, Streets, StreetsPairs

SIZE = (64, 128)


def sample(height: int = 40, width: int = 56, seed: int = 0) -> Sample:
    g = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=g)
    label = torch.randint(0, 5, (height // 8, width // 8), dtype=torch.uint8, generator=g)
    label = label.repeat_interleave(8, 0).repeat_interleave(8, 1)
    return Sample(image, label, "a", {"depth": image[0].float()})


def twin() -> Sample:
    """With a view of the very same pixels."""
    return replace(sample(), views={"augmented": sample()})


GEOMETRY: dict[str, Any] = {
    "flip": Flip(1.0),
    "resize": Resize((30, 50), (0.5, 1.5)),
    "image only": Resize((30, 50), image_only=True),
    "crop": Crop((24, 24), (0.6, 1.7)),
    "crop beyond": Crop((64, 64)),
    "pad": Pad((50, 60)),
    "torchvision": Torchvision(v2.RandomRotation((10, 30))),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_views_move_as_their_sample_does(name: str) -> None:
    for seed in range(4):
        moved = GEOMETRY[name](twin(), np.random.default_rng(seed), Draw(seed, 0, 0)).whole()
        view = moved.views["augmented"]
        assert torch.equal(view.image, moved.image)
        assert torch.equal(view.label, moved.label)
        assert torch.equal(view.extra["depth"], moved.extra["depth"])
        assert moved.image.shape != sample().image.shape or not torch.equal(moved.image, sample().image)


def test_a_view_brings_its_own_picture_and_labels() -> None:
    own = replace(sample(seed=1), label=torch.full((40, 56), 254, dtype=torch.uint8))
    both = replace(sample(), views={"augmented": own})
    for pipeline in (Pipeline((Flip(1.0),)), BlindNet(crop=(40, 56), scale=(1.0, 1.0), flip=1.0).build()):
        views = pipeline(both, np.random.default_rng(0), Draw(0, 0, 0))
        assert list(views) == ["original", "augmented"]
        assert torch.equal(views["original"].label, sample().label.flip(1))
        assert bool((views["augmented"].label == 254).all())
        assert views["augmented"].views == views["original"].views == {}
    plain = Pipeline()(both, np.random.default_rng(0), Draw(0, 0, 0))
    assert torch.equal(plain["augmented"].image, own.image)


class Counting(Colour):
    p = 1.0

    def recolour(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        return torch.full_like(image, int(rng.integers(256)))


def test_views_that_a_pipeline_does_not_name_are_coloured_as_the_original_is() -> None:
    views = Pipeline(views={"original": (Counting(),)})(twin(), np.random.default_rng(0), Draw(0, 0, 0))
    found = {name: view.image.unique().tolist() for name, view in views.items()}
    assert all(len(values) == 1 for values in found.values())
    assert found["original"] != found["augmented"], "each with numbers of its own"
    shared = Pipeline((Counting(),))(twin(), np.random.default_rng(0), Draw(0, 0, 0))
    assert all(len(view.image.unique()) == 1 for view in shared.values())


def test_views_of_another_size_are_refused() -> None:
    wrong = replace(sample(), views={"augmented": sample(48, 56)})
    with pytest.raises(ValueError, match="its view 'augmented' is"):
        Pipeline()(wrong, np.random.default_rng(0), Draw(0, 0, 0))


def test_lazy_samples_pass_as_before() -> None:
    whole = sample()
    lazy = LazySample(whole.label, "a", whole.size, lambda box: (box.of(whole.image), {}))
    assert list(Pipeline((Crop((24, 24)),))(lazy, np.random.default_rng(0), Draw(0, 0, 0))) == ["original"]


# cut and paste


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 90), st.integers(2, 90), st.integers(0, 2**32), st.integers(1, 3))
def test_objects_stand_on_the_road_and_change_nothing_else(height: int, width: int, seed: int, objects: int) -> None:
    label = np.full((height, width), 2, np.uint8)
    label[height // 2 :] = 0
    found = CutPaste(objects=objects)(label, np.random.default_rng(seed))
    assert found.shape == label.shape
    assert set(np.unique(found)) <= set(range(objects + 1))
    assert (found > 0).any()
    rows = np.flatnonzero((found > 0).any(1))
    assert rows[-1] >= height // 2, "its foot is on the road"
    both = pasted(label, found)
    assert ((both == 254) == (found > 0)).all()
    assert (both[found == 0] == label[found == 0]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.integers(0, 2**32))
def test_outlines_are_as_long_as_asked_and_touch_their_box(side: int, seed: int) -> None:
    outline = drawn(side, np.random.default_rng(seed))
    assert max(outline.shape) <= side
    assert max(outline.shape) >= 0.45 * side
    assert all(edge.any() for edge in (outline[0], outline[-1], outline[:, 0], outline[:, -1]))


def test_without_a_road_nothing_is_pasted() -> None:
    assert not CutPaste()(np.full((20, 30), 8, np.uint8), np.random.default_rng(0)).any()


def test_outlines_come_from_a_folder(tmp_path: Path) -> None:
    mask = np.zeros((50, 80), np.uint8)
    mask[10:40, 20:60] = 200
    Image.fromarray(mask).save(tmp_path / "tire.png")
    found = CutPaste(long_side=(512, 512), masks=str(tmp_path))(
        np.zeros((100, 400), np.uint8), np.random.default_rng(3)
    )
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    assert len(columns) <= 50
    assert found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "a full rectangle, as the mask is"
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "tire.png")
    with pytest.raises(DataError, match="holds no object"):
        CutPaste(masks=str(tmp_path))(np.zeros((9, 9), np.uint8), np.random.default_rng(0))
    with pytest.raises(DataError, match=r"holds no \*.png"):
        CutPaste(masks=str(tmp_path / "absent"))(np.zeros((9, 9), np.uint8), np.random.default_rng(0))


# the streets world, twice


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_augmented_scene_is_the_scene(shift: str) -> None:
    pairs, plain = StreetsPairs(size=SIZE, shift=shift, length=12), Streets("game", "train", size=SIZE, length=12)
    kinds = set()
    for index in range(12):
        pair, scene = pairs[index], plain[index]
        view = pair.views["augmented"]
        assert torch.equal(pair.image, scene.image)
        assert torch.equal(pair.label, scene.label)
        out = view.label == 254
        assert torch.equal(view.label[~out], scene.label[~out])
        unknown, shifted = bool(out.any()), float((view.image != scene.image).any(0)[~out].double().mean()) > 0.5
        kinds.add((unknown, shifted))
        assert view.id.startswith(pair.id)
        assert torch.equal(pairs[index].views["augmented"].image, view.image), "a function of the index"
    expected = {"semantic": {(True, False)}, "covariate": {(False, True)}, "either": {(True, False), (False, True)}}
    assert kinds == expected.get(shift, {(True, True)})


def test_incoherent_objects_show_the_original_look() -> None:
    views = {}
    for shift in ("semantic", "both", "coherent"):
        views[shift] = StreetsPairs(size=SIZE, shift=shift)[1].views["augmented"]
    out = views["both"].label == 254
    assert torch.equal(views["both"].image[:, out], views["semantic"].image[:, out])
    assert torch.equal(views["both"].label, views["coherent"].label)
    assert not torch.equal(views["both"].image[:, out], views["coherent"].image[:, out])
    far = ~out & (torch.arange(SIZE[0]) < SIZE[0] // 4)[:, None]  # from the object and its shadow
    assert torch.equal(views["both"].image[:, far], views["coherent"].image[:, far])


def test_a_generator_may_stray_and_the_original_does_not() -> None:
    straight, stray = (StreetsPairs(size=SIZE, misalignment=pixels) for pixels in (0.0, 3.0))
    assert torch.equal(straight[2].image, stray[2].image)
    assert torch.equal(straight[2].views["augmented"].label, stray[2].views["augmented"].label)
    assert not torch.equal(straight[2].views["augmented"].image, stray[2].views["augmented"].image)


def test_pairs_are_of_sources_alone() -> None:
    with pytest.raises(DataError, match="made to train on: of game or generated, not of fog"):
        StreetsPairs("fog", "test")
    with pytest.raises(DataError, match="has no shift 'coherence'"):
        StreetsPairs(shift="coherence")
    with pytest.raises(DataError, match="leave both out"):
        StreetsPairs(unknown=True)
    found = from_spec("streets_pairs=generated@val,shift=either,size=64x128,length=3,objects=2")
    assert (len(found), found.id(0)) == (3, "streets_pairs/generated/0/1000000")


def loader(workers: int = 0, rank: int = 0, world_size: int = 1) -> Loader:
    source = StreetsPairs(size=SIZE, length=8)
    pipeline = StreetsAugmentation(crop=(48, 96)).build()
    sampler = Uniform(8, batch_size=4, seed=0)
    return Loader(
        [source], sampler, pipeline, batch_size=4, workers=workers, rank=rank, world_size=world_size, stop_step=2
    )


def test_batches_carry_both_views_for_any_number_of_workers_and_ranks() -> None:
    alone = list(loader())
    for batch in alone:
        view = batch.views["augmented"]
        assert view.images.shape == batch.images.shape
        assert bool((view.labels == 254).any())
        assert not bool((batch.labels == 254).any())
        same = (view.labels == batch.labels) | (view.labels == 254)
        assert bool(same.all()), "one geometry for both"
    split = [list(loader(workers=rank, rank=rank, world_size=2)) for rank in range(2)]
    for batch, first, second in zip(alone, *split, strict=True):
        for name in ("images", "labels"):
            parts = [getattr(each.views["augmented"], name) for each in (first, second)]
            assert torch.equal(torch.cat(parts), getattr(batch.views["augmented"], name))


def test_sources_with_and_without_partners_do_not_mix_in_silence() -> None:
    sources = [StreetsPairs(size=SIZE, length=4), Streets("game", "train", size=SIZE, length=4)]
    mixture = Mixture(
        [Uniform(4, batch_size=2, seed=0, source=i) for i in range(2)], shares=(0.5, 0.5), batch_size=4, seed=0
    )
    found = Loader(sources, mixture, Pipeline(), batch_size=4)
    with pytest.raises(DataError, match="every sample must have the same"):
        next(iter(found))


def test_a_targets_views_have_no_labels() -> None:
    target = Target(StreetsPairs(size=SIZE, length=4), Uniform(4, batch_size=2, seed=0), Pipeline())
    source = Streets("game", "train", size=SIZE, length=4)
    batch = next(iter(Loader([source], Uniform(4, batch_size=2, seed=0), Pipeline(), batch_size=2, target=target)))
    assert batch.target.labels is None
    assert batch.target.views["augmented"].labels is None


def test_a_pack_refuses_to_lose_a_view(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a pack holds one a sample"):
        pack(StreetsPairs(size=SIZE, length=2), tmp_path / "packed", Settings(), workers=1)


# pairs on disk


def tree(root: Path) -> None:
    for number, source in enumerate(("a", "town/b")):
        for variant in range(2):
            name = f"{source}_genid{variant}"
            write(root / "images" / f"{name}.png", np.full((4, 6, 3), 100 + variant, np.uint8))
            label = np.full((4, 6), number, np.uint8)
            label[0, variant] = 254
            write(root / "labels" / f"{name}_labelTrainIds.png", label)
        write(root / "originals" / f"{source}.png", np.full((4, 6, 3), number, np.uint8))
        write(root / "original_labels" / f"{source}_labelTrainIds.png", np.full((4, 6), number, np.uint8))


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_pairs_are_read_from_disk(tmp_path: Path) -> None:
    tree(tmp_path)
    found = open_dataset("pairs", tmp_path)
    assert [found.id(i) for i in range(len(found))] == [
        f"pairs/{name}" for name in ("a_genid0", "a_genid1", "town/b_genid0", "town/b_genid1")
    ]
    pair = found[3]
    assert (pair.image.unique().tolist(), pair.label.unique().tolist()) == ([1], [1])
    view = pair.views["augmented"]
    assert view.image.unique().tolist() == [101]
    assert (view.label == 254).nonzero().tolist() == [[0, 1]]
    alone = open_dataset("generated", tmp_path)
    assert len(alone) == 4
    assert alone[3].views == {}
    unlabelled = open_dataset("pairs", tmp_path, labels=False)[0]
    assert unlabelled.label is unlabelled.views["augmented"].label is None


def test_a_pair_without_its_original_is_named(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "originals" / "a.png").unlink()
    with pytest.raises(DataError, match=r"2 generated images have no original.*pairs/a_genid0.*generated="):
        open_dataset("pairs", tmp_path)
    write(tmp_path / "originals" / "a.png", np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(DataError, match="differ in size"):
        open_dataset("pairs", tmp_path)[0]


def test_jitter_leaves_pairs_comparable() -> None:
    """The presets' colours touch both views and no label."""
    views = Pipeline(views={"original": (ColourJitter(0.4, 0.4, 0.4, 0.1, p=1.0),)})(
        twin(), np.random.default_rng(1), Draw(0, 0, 0)
    )
    assert torch.equal(views["original"].label, views["augmented"].label)
    assert not torch.equal(views["original"].image, views["augmented"].image)
