"""Colours: the native distortion against a float64 definition, jitter against torchvision, and nothing but colours."""

import colorsys
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from dgseg.data import Draw, Sample
from dgseg.data.augment import ColourJitter, Crop, GaussianBlur, PhotometricDistortion, distort
from dgseg.data.sample import generator


def textbook(image: np.ndarray, brightness, contrast, saturation, hue, contrast_first) -> np.ndarray:
    """One pixel at a time, through the standard library's HSV."""
    out = np.empty(image.shape)
    for at in np.ndindex(image.shape[1:]):
        rgb = np.clip(image[:, *at] + brightness, 0, 255)
        if contrast_first:
            rgb = np.clip(rgb * contrast, 0, 255)
        h, s, v = colorsys.rgb_to_hsv(*(rgb / 255))
        rgb = 255 * np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1, s * saturation), v))
        out[:, *at] = rgb if contrast_first else np.clip(rgb * contrast, 0, 255)
    return out


@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 5), st.integers(1, 23)),
    st.floats(-80, 80),
    st.floats(0, 3),
    st.floats(0, 3),
    st.floats(-360, 360),
    st.booleans(),
    st.sampled_from([2, 3, 256]),
)
@settings(max_examples=100, deadline=None)
def test_distort_is_the_textbook_within_rounding(seed, size, brightness, contrast, saturation, hue, first, levels):
    image = np.random.default_rng(seed).integers(0, levels, (3, *size)) * (255 // (levels - 1))
    chosen = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
        "contrast_first": first,
    }
    out = distort(torch.from_numpy(image.astype(np.uint8)), **chosen).numpy()
    assert np.abs(out - textbook(image, **chosen)).max() <= 0.51


def test_same_bits_in_every_instruction_set():
    program = (
        "import hashlib, numpy as np; from dgseg._host import distort\n"
        "image = np.random.default_rng(0).integers(0, 256, (3, 301, 307), np.uint8)\n"
        "for hue in (0.0, 0.3, -2.7):\n"
        "    out = distort(image, brightness=9.3, contrast=1.17, saturation=0.83, hue=hue, contrast_first=hue > 0)\n"
        "    print(hashlib.sha256(out.tobytes()).hexdigest())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"DGSEG_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for isa in ("baseline", "avx2", "avx512")
    }
    assert len(found) == 1
    assert len(found.pop().split()) == 3


def test_identity_and_strides():
    image = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8).permute(2, 0, 1)
    assert torch.equal(distort(image), image)
    assert torch.equal(distort(image[:, 3:30, 7:], hue=50), distort(image, hue=50)[:, 3:30, 7:])
    assert torch.equal(distort(image, hue=360), image)


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match="RGB"):
        distort(torch.zeros(4, 5, 5, dtype=torch.uint8))
    with pytest.raises(TypeError):
        distort(torch.zeros(3, 5, 5))
    with pytest.raises(ValueError, match="at least 0"):
        distort(torch.zeros(3, 5, 5, dtype=torch.uint8), contrast=-1)


def patches() -> Sample:
    image = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    image[:, 32:] = image[:, :32]  # the same colours twice: what happens must not depend on the place
    return Sample(image, torch.randint(0, 19, (64, 64)).to(torch.uint8), "x", {"depth": torch.rand(64, 64)})


@pytest.mark.parametrize("transform", [PhotometricDistortion(), ColourJitter(p=1.0), GaussianBlur()])
def test_colours_leave_maps_and_geometry_alone(transform):
    source = patches()
    changed = 0
    for number in range(30):
        out = transform(source, generator(1, number), Draw(number, 0, 0))
        assert out.label is source.label
        assert out.extra["depth"] is source.extra["depth"]
        assert out.image.shape == source.image.shape
        assert out.image.dtype == torch.uint8
        if not isinstance(transform, GaussianBlur):
            assert torch.equal(out.image[:, 32:], out.image[:, :32])
        changed += not torch.equal(out.image, source.image)
    assert changed > 20
    assert torch.equal(source.image, patches().image)  # nothing happens in place


def test_steps_happen_half_of_the_time():
    grey = Sample(torch.full((3, 4, 4), 100, dtype=torch.uint8), None, "x")
    red = Sample(torch.tensor([200, 100, 100], dtype=torch.uint8)[:, None, None].expand(3, 4, 4), None, "x")
    only = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}
    for strength in ({"brightness": 32.0}, {"contrast": (0.5, 1.5)}, {"saturation": (0.5, 1.5)}, {"hue": 36.0}):
        transform = PhotometricDistortion(**(only | strength))
        images = [transform(red, generator(0, n), Draw(n, 0, 0)).image[:, 0, 0] for n in range(400)]
        values = torch.stack(images).float()
        unchanged = (values == torch.tensor([200.0, 100, 100])).all(1).float().mean()
        assert 0.42 < unchanged < 0.6
        if "brightness" in strength:
            assert values[:, 1].min() >= 68
            assert values[:, 1].max() <= 132
            assert values[:, 1].max() > 128
        if "saturation" in strength or "hue" in strength:  # value stays, and grey stays grey
            assert (values.max(1).values == 200).all()
            assert (transform(grey, generator(0, 1), Draw(1, 0, 0)).image == 100).all()


@pytest.mark.parametrize("step", range(4))
def test_jitter_is_torchvision_s(step):
    strengths = [0.0] * 4
    strengths[step] = 0.3
    source = patches()
    for number in range(20):
        out = ColourJitter(*strengths, p=1.0)(source, generator(4, number), Draw(number, 0, 0)).image
        rng = generator(4, number)
        rng.random(), rng.permutation(4)
        spread = np.array(strengths[:3])
        factors = [*rng.uniform(1 - spread, 1 + spread), rng.uniform(-strengths[3], strengths[3])]
        adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)[step]
        theirs = adjust(source.image, factors[step])
        assert (out.int() - theirs.int()).abs().max() <= (1 if step == 3 else 0)


def test_blur_is_torchvision_s_and_spreads_a_point_by_its_sigma():
    point = torch.zeros(3, 33, 33, dtype=torch.uint8)
    point[:, 16, 16] = 255
    out = GaussianBlur((1.3, 1.3))(Sample(point, None, "x"), generator(0, 0), Draw(0, 0, 0)).image[0].double()
    offsets = torch.arange(33) - 16.0
    assert abs((out.sum(0) * offsets**2).sum() / out.sum() - 1.3**2) < 0.2
    source = patches()
    for number in range(10):
        found = GaussianBlur()(source, generator(6, number), Draw(number, 0, 0)).image
        rng = generator(6, number)
        rng.random()
        sigma = rng.uniform(0.15, 1.3)
        theirs = F.gaussian_blur(source.image, [2 * max(1, round(4 * sigma)) + 1] * 2, [sigma] * 2)
        assert (found.int() - theirs.int()).abs().max() <= 1
    for side in (1, 2, 5):  # smaller than the kernel
        tiny = Sample(torch.zeros(3, side, 9, dtype=torch.uint8), None, "x")
        assert GaussianBlur()(tiny, generator(0, 1), Draw(0, 0, 0)).size == (side, 9)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: PhotometricDistortion(contrast=(1.5, 0.5)), "contrast"),
        (lambda: PhotometricDistortion(saturation=(-1.0, 0.5)), "saturation"),
        (lambda: PhotometricDistortion(brightness=-3.0), "brightness -3"),
        (lambda: PhotometricDistortion(each=3.0), "each 3"),
        (lambda: ColourJitter(brightness=-1.0), "brightness -1"),
        (lambda: ColourJitter(hue=0.9), "hue 0.9"),
        (lambda: GaussianBlur((0.0, 1.0)), "sigma"),  # it would paint everything black
        (lambda: GaussianBlur((2.0, 1.0)), "sigma"),
        (lambda: Crop((4, 4), wanted_pixels=-1), "wanted_pixels"),
    ],
)
def test_wrong_settings_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
