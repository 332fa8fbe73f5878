"""Image, label and further maps show the same places after every transform: the image's channels encode where each of
its pixels comes from, and so do the maps."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from dgseg.data import Box, Draw, LazySample, Sample
from dgseg.data.augment import (
    BlindNet,
    Crop,
    DAFormer,
    Evaluation,
    Flip,
    Pad,
    Pipeline,
    RealTime,
    Resize,
    Streets,
    Torchvision,
)
from dgseg.data.augment.crop import largest_share
from dgseg.data.augment.geometry import resized_image, resized_map
from dgseg.data.sample import generator


def ramp(height: int, width: int) -> Sample:
    """Red is the row, green the column; the label is the row again, the extra map the column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, 0 * rows]).to(torch.uint8)
    return Sample(image, rows.to(torch.uint8), "ramp", {"column": columns.float()})


def assert_shared_geometry(sample: Sample, per_pixel: float) -> None:
    """`per_pixel`: how many source pixels lie between neighbours; interpolation and the nearest centre differ by at
    most half of that, plus the rounding of bytes, plus one where borders are repeated."""
    assert sample.label.dtype == sample.image.dtype == torch.uint8
    assert sample.label.shape == sample.extra["column"].shape == sample.image.shape[-2:]
    shown = sample.label != 255
    off_rows = (sample.image[0].float() - sample.label.float()).abs()[shown]
    off_columns = (sample.image[1].float() - sample.extra["column"]).abs()[shown]
    allowed = 0.5 * max(per_pixel - 1, 1) + 1.01 if per_pixel != 1 else 0
    assert shown.any()
    assert off_rows.max() <= allowed
    assert off_columns.max() <= allowed


SIDES = st.integers(8, 200)
SEEDS = st.integers(0, 2**32)


@given(SIDES, SIDES, SEEDS)
@settings(max_examples=30, deadline=None)
def test_flip(height, width, seed):
    sample = Flip(p=1)(ramp(height, width), generator(seed, 0), Draw(0, 0, 0))
    assert_shared_geometry(sample, 1)
    assert torch.equal(sample.image.flip(-1), ramp(height, width).image)


@given(SIDES, SIDES, st.tuples(SIDES, SIDES), st.booleans(), SEEDS)
@settings(max_examples=60, deadline=None)
def test_resize(height, width, size, keep_ratio, seed):
    source = ramp(height, width)
    sample = Resize(size, (0.5, 1.5), keep_ratio)(source, generator(seed, 0), Draw(0, 0, 0)).whole()
    assert_shared_geometry(sample, max(a / b for a, b in zip(source.size, sample.size, strict=True)) + 1e-3)
    if keep_ratio:
        # Some factor gives both sides, each to within the rounding; no side falls below one pixel.
        least, most = (
            [(side + half) / have for have, side in zip(source.size, sample.size, strict=True)] for half in (-0.5, 0.5)
        )
        least = [0 if side == 1 else bound for side, bound in zip(sample.size, least, strict=True)]
        assert max(least) <= min(most) + 1e-9


@pytest.mark.parametrize("layout", ["planes", "pixels"])
def test_images_of_a_pixel(layout):
    for height, width, *size in itertools.product((1, 2, 31), (1, 2, 31), (1, 2, 5, 40), (1, 2, 5, 40)):
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        if layout == "pixels":
            image = torch.from_numpy(image.permute(1, 2, 0).contiguous().numpy()).permute(2, 0, 1)
        found = resized_image(image, tuple(size))
        wanted = weights(height, size[0]) @ image.double() @ weights(width, size[1]).T
        assert found.dtype == torch.uint8
        assert (found - wanted).abs().max() < 1.5, (height, width, size)


def weights(have: int, to: int) -> torch.Tensor:
    """Of bilinear interpolation with antialiasing: a triangle around every new pixel's centre."""
    scale = max(1.0, have / to)
    centres = (torch.arange(to).double()[:, None] + 0.5) * have / to
    found = (1 - (torch.arange(have) + 0.5 - centres).abs() / scale).clamp(0)
    return found / found.sum(1, keepdim=True)


@given(SIDES, SIDES, st.tuples(SIDES, SIDES), st.sampled_from([(1.0, 1.0), (0.5, 2.0)]), st.booleans(), SEEDS)
@settings(max_examples=100, deadline=None)
def test_crop(height, width, size, scale, around, seed):
    crop = Crop(size, scale, around_wanted=around, tile=50)
    sample = crop(ramp(height, width), generator(seed, 0), Draw(0, 0, 0, wanted_class=height // 2))
    assert sample.size == size
    assert_shared_geometry(sample, 1 if scale == (1, 1) else 2.3)


@pytest.mark.parametrize(
    ("preset", "per_pixel"),
    [
        (DAFormer((150, 180), (64, 96), distortion=0), 1.4),
        (Streets(crop=(64, 64), distortion=0), 1),
        (BlindNet((96, 96), original=0), 2.3),
        (RealTime((100, 160), jitter=0), 2.1),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float | int) else "",
)
def test_presets_share_their_geometry(preset, per_pixel):
    pipeline = preset.build()
    colourless = Pipeline(pipeline.shared)  # what is left of the colours would hide the coordinates
    seen = set()
    for number in range(60):
        sample = colourless(ramp(180, 220), generator(5, number), Draw(number, 0, 0, wanted_class=90))["original"]
        assert_shared_geometry(sample, per_pixel)
        seen.add((int(sample.label[0, 0]), int(sample.extra["column"][0, 0])))
        coloured = pipeline(ramp(180, 220), generator(5, number), Draw(number, 0, 0, wanted_class=90))
        for view in coloured.values():
            assert torch.equal(view.label, sample.label)
            assert torch.equal(view.extra["column"], sample.extra["column"])
    assert len(seen) > (2 if isinstance(preset, RealTime) else 20)


def test_real_time_applies_each_with_its_own_probability():
    pipeline = RealTime((60, 80)).build()
    flipped = cropped = both = 0
    for number in range(400):
        sample = Pipeline(pipeline.shared)(ramp(60, 80), generator(2, number), Draw(number, 0, 0))["original"]
        flip = sample.extra["column"][0, 0] > sample.extra["column"][0, -1]
        crop = (sample.extra["column"].max() - sample.extra["column"].min() < 78) | (sample.label.max() < 58)
        flipped, cropped, both = flipped + int(flip), cropped + int(crop), both + int(flip and crop)
    assert 160 < flipped < 240
    assert 150 < cropped < 240
    assert 60 < both < 140


def test_foreign_transforms_share_their_geometry():
    transform = Torchvision(v2.Compose([v2.RandomCrop(60), v2.RandomHorizontalFlip()]))
    for number in range(20):
        sample = transform(ramp(100, 90), generator(0, number), Draw(number, 0, 0))
        assert sample.size == (60, 60)
        assert_shared_geometry(sample, 1)
    claims = Torchvision(v2.RandomVerticalFlip(1), geometric=False)
    with pytest.raises(ValueError, match="moves pixels"):
        claims(ramp(9, 9), generator(0, 0), Draw(0, 0, 0))


def test_differing_sizes_are_refused():
    sample = Sample(torch.zeros(3, 10, 20, dtype=torch.uint8), torch.zeros(10, 10, dtype=torch.uint8), "a/b")
    with pytest.raises(ValueError, match=r"a/b: the label is \(10, 10\), the image \(10, 20\)"):
        Streets().build()(sample, generator(0, 0), Draw(0, 0, 0))


def test_views_may_not_move_pixels():
    with pytest.raises(ValueError, match="to `shared`"):
        Pipeline((), {"original": (), "augmented": (Flip(),)})
    with pytest.raises(ValueError, match="original"):
        Pipeline((), {"augmented": ()})
    Pipeline((), {"original": (Torchvision(v2.ColorJitter(0.3), geometric=False),)})
    with pytest.raises(ValueError, match="to `shared`"):
        Pipeline((), {"original": (Torchvision(v2.ColorJitter(0.3)),)})
    with pytest.raises(ValueError, match="probability"):
        Flip(p=1.5)


def test_maps_take_the_nearest_centre():
    values = torch.arange(6, dtype=torch.uint8)[None]
    assert resized_map(values, (1, 3)).tolist() == [[1, 3, 5]]
    assert resized_map(values, (1, 2)).tolist() == [[1, 4]]  # floor(i·H/h) would say 0, 3
    assert resized_map(values[:, :2], (1, 6)).tolist() == [[0, 0, 0, 1, 1, 1]]


def test_evaluation_keeps_the_label():
    sample = Evaluation((50, 100)).build()(ramp(120, 200), generator(0, 0), Draw(0, 0, 0))["original"]
    assert sample.size == (50, 83)
    assert sample.label.shape == (120, 200)


# ---- where crops go --------------------------------------------------------------------------------------------


def of_label(label: torch.Tensor) -> Sample:
    return Sample(torch.zeros(3, *label.shape, dtype=torch.uint8), label.to(torch.uint8), "x")


def test_class_share_is_limited():
    label = torch.zeros(200, 200)
    label[:, 100:] = 1
    label[:50] = 255
    limited, free = Crop((40, 40), max_class_share=0.75), Crop((40, 40), max_class_share=1.0)
    shares = {limited: [], free: []}
    for crop, found in shares.items():
        for number in range(200):
            out = crop(of_label(label), generator(0, number), Draw(number, 0, 0))
            found.append(largest_share(out.label))
    # A place is good with probability about 21/141: ten tries miss all with .85^10 = .2.
    assert np.mean(np.array(shares[free]) > 0.75) > 0.7
    assert np.mean(np.array(shares[limited]) > 0.75) < 0.35


def test_largest_share():
    assert largest_share(torch.tensor([[1, 1, 2, 255]], dtype=torch.uint8)) == 2 / 3
    assert largest_share(torch.tensor([[255, 255]], dtype=torch.uint8)) == 1.0
    assert largest_share(torch.tensor([[254, 254, 3, 3]], dtype=torch.uint8)) == 0.5


def test_wanted_class_is_sought_and_images_are_decoded_once():
    label = torch.arange(2).repeat(200, 100)
    label[150:170, 30:50] = 12
    decoded = []

    def decode(box: Box):
        decoded.append(box)
        return torch.zeros(3, box.height, box.width, dtype=torch.uint8), {}

    sample = LazySample(label.to(torch.uint8), "x", (200, 200), decode)
    crop = Crop((60, 60), wanted_pixels=200)
    hits = {12: 0, -1: 0}
    for wanted in hits:
        for number in range(300):
            out = crop(sample, generator(3, number), Draw(number, 0, 0, wanted_class=wanted))
            hits[wanted] += int((out.label == 12).sum() >= 200)
    assert len(decoded) == 600
    # One place in twelve holds enough of it: ten tries find one with 1 - (11/12)^10 = .58.
    assert hits[-1] / 300 < 0.16
    assert 0.48 < hits[12] / 300 < 0.68


def test_no_more_than_ten_tries():
    label = torch.zeros(50, 50)
    label[::5, ::5] = 3  # 100 pixels, never enough of them in one place, and always too much of the other class
    # Ten times ten; but once ten where the whole image has too little.
    for wanted_pixels, tries in ((100, 100), (101, 10)):
        rng = generator(0, 0)
        Crop((20, 20), wanted_pixels=wanted_pixels)(of_label(label), rng, Draw(0, 0, 0, wanted_class=3))
        reference = generator(0, 0)
        reference.random(), reference.uniform(1, 1)
        for _ in range(tries):
            reference.integers([0, 0], [30, 30], endpoint=True)
        assert rng.random() == reference.random()


def test_centroid_crops_hold_the_class():
    label = torch.zeros(300, 400)
    label[20:24, 30:34] = 7
    label[280:284, 390:394] = 7
    crop = Crop((64, 64), scale=(0.8, 1.5), max_class_share=1, around_wanted=True, tile=100)
    sides = set()
    for number in range(60):
        sample = of_label(label)
        sample.extra["row"] = torch.arange(300)[:, None].expand(300, 400)
        out = crop(sample, generator(0, number), Draw(number, 0, 0, wanted_class=7))
        assert (out.label == 7).any()
        sides.add(bool(out.extra["row"][0, 0] < 150))
    assert sides == {True, False}  # both places are found, not the mean of the two
    absent = crop(of_label(label), generator(0, 1), Draw(1, 0, 0, wanted_class=9))
    assert absent.size == (64, 64)


def test_small_images_are_padded():
    sample = Crop((30, 40))(ramp(20, 50), generator(0, 0), Draw(0, 0, 0))
    assert sample.size == (30, 40)
    assert (sample.label[20:] == 255).all()
    assert (sample.label[:20] != 255).all()
    assert sample.image[:, 25, 3].tolist() == [124, 116, 104]
    assert Pad((10, 10))(ramp(20, 30), generator(0, 0), Draw(0, 0, 0)).size == (20, 30)
    assert Pad((25, 10))(ramp(20, 30), generator(0, 0), Draw(0, 0, 0)).size == (25, 30)


def test_unlabelled_samples():
    sample = Sample(ramp(50, 60).image, None, "x")
    out = DAFormer(None, (20, 20)).build()(sample, generator(0, 0), Draw(0, 0, 0))["original"]
    assert out.label is None
    assert out.size == (20, 20)
    with pytest.raises(ValueError, match="asks for class 3, but this source has no labels"):
        Crop((20, 20))(sample, generator(0, 0), Draw(0, 0, 0, wanted_class=3))
