"""Which pixels are chosen, what is read there, and whether the numbers beside the picture say what they claim."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dgseg.data.dataset import DataError
from dgseg.data.streets import Streets
from dgseg.evaluation import PROTOCOLS, charts
from dgseg.evaluation.embedding import _evenly, choose, clouds, features_of, plane, silhouette, silhouette_within
from dgseg.evaluation.loading import resized
from dgseg.evaluation.protocols import Protocol
from dgseg.models import Prediction, build
from dgseg.models.base import SegmentationModel

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (48, 96)
NATIVE = PROTOCOLS["native"]


class Colours(SegmentationModel):
    """Its features are the image itself, at a quarter of its size."""

    multiple = 8

    def __init__(self, normed: bool = False) -> None:
        super().__init__(19)
        self.normed = normed
        self.weight = nn.Parameter(torch.zeros(1))

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        assert images.shape[-2] % 8 == images.shape[-1] % 8 == 0
        features = {"decoder": images[..., 2::4, 2::4]}
        if self.normed:
            features |= {"norm0": nn.functional.instance_norm(images), "norm1": images[:, :2]}
        return Prediction(images[:, :1].expand(-1, 19, -1, -1), features, [], {})


def world(*domains: str, length: int = 4, size: tuple[int, int] = SIZE) -> list[Streets]:
    return [Streets(domain, size=size, length=length) for domain in domains]


@given(available=st.integers(0, 300), wanted=st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_evenly_spaced_places(available: int, wanted: int):
    places = _evenly(available, wanted)
    assert len(places) == min(available, wanted)
    assert (np.diff(places) >= 1).all()
    if len(places):
        assert 0 <= places[0] <= places[-1] < available
        assert abs(places[0] - (available - 1 - places[-1])) <= 1  # as far from either end
        assert np.ptp(np.diff(places, append=places[-1] + available // len(places))) <= 1


def test_as_many_of_every_class_and_domain_and_the_same_every_time():
    chosen = choose(world("fog", "night"), images=3, pixels=7)
    assert chosen.domains == ("fog", "night")
    assert Counter(chosen.image_domains.tolist()) == {0: 3, 1: 3}
    for domain, dataset in enumerate(world("fog", "night")):
        labels = [dataset[spot.index].label for spot in chosen.spots if spot.domain == domain]
        there = torch.bincount(torch.stack(labels).flatten().long(), minlength=256)[:19]
        found = Counter(chosen.classes[chosen.pixel_domains == domain].tolist())
        assert found == {c: min(7, n) for c, n in enumerate(there.tolist()) if n}
    for spot in chosen.spots:
        label = spot.dataset[spot.index].label.numpy().ravel()
        np.testing.assert_array_equal(label[spot.pixels], spot.classes)
    again = choose(world("fog", "night"), images=3, pixels=7)
    np.testing.assert_array_equal(
        np.concatenate([spot.pixels for spot in again.spots]), np.concatenate([spot.pixels for spot in chosen.spots])
    )
    assert set(choose(world("fog"), images=4, pixels=7, classes=[0, 13]).classes.tolist()) == {0, 13}


@pytest.mark.parametrize("size", [(48, 96), (41, 90), (5, 9)])
@pytest.mark.parametrize(
    "protocol", [NATIVE, Protocol("half", {"streets": (24, 48)}, "refused")], ids=["native", "half"]
)
def test_features_are_read_where_the_pixels_are(size: tuple[int, int], protocol: Protocol):
    """Whatever the padding and the protocol's size, a pixel gets the feature that lies at its place."""
    datasets = world("fog", length=2, size=size)
    chosen, model = choose(datasets, images=2, pixels=20), Colours().eval()
    found = features_of(model, chosen, protocol)
    want = []
    for spot in chosen.spots:
        shown = resized(datasets[0][spot.index].image, protocol.image_size("streets", size))
        shown = model.normalise(shown[None])[0]
        for pixel in spot.pixels.tolist():
            middle = [(place + 0.5) / side for place, side in zip(divmod(pixel, size[1]), size, strict=True)]
            # The cell of four pixels that it falls into, or the last one whose own middle is still in the image.
            cells = [int(share * side / 4) for share, side in zip(middle, shown.shape[1:], strict=True)]
            y, x = (min(4 * c + 2, 4 * ((side - 3) // 4) + 2) for c, side in zip(cells, shown.shape[1:], strict=True))
            want.append(shown[:, y, x] / shown[:, y, x].norm())
    np.testing.assert_allclose(found.pixels, torch.stack(want), atol=1e-5)


def test_covariances_are_those_of_the_norms_where_there_are_any():
    chosen = choose(world("fog"), images=2, pixels=5)
    plain, normed = (features_of(Colours(n).eval(), chosen, NATIVE).covariances for n in (False, True))
    assert {name: found.shape for name, found in plain.items()} == {"decoder": (2, 6)}
    assert {name: found.shape for name, found in normed.items()} == {"norm0": (2, 6), "norm1": (2, 3)}
    image = Colours().normalise(chosen.spots[1].dataset[chosen.spots[1].index].image[None])[0].double()
    rows, columns = np.triu_indices(3)
    for found, maps in ((plain["decoder"], image[:, 2::4, 2::4]), (normed["norm0"], None)):
        covariance = np.cov(maps.flatten(1)) if maps is not None else np.corrcoef(image.flatten(1))
        np.testing.assert_allclose(found[1], covariance[rows, columns], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["bisenet_mini", "deeplabv3plus_shufflenetv2"])
def test_real_models(name: str):
    torch.manual_seed(0)
    options = {"instance_norms": "whitening"} if name.startswith("deeplab") else {}
    model = build(name, **options)
    found = features_of(model, choose(world("fog", "night", length=2), images=2, pixels=3), NATIVE)
    assert np.isfinite(found.pixels).all()
    assert list(found.covariances) == (["norm0", "norm1", "norm2"] if options else ["decoder"])
    assert model.training  # as it came
    with pytest.raises(ValueError, match=r"no features 'stage9'; it has .*stage1"):
        features_of(model, choose(world("fog"), images=1, pixels=1), NATIVE, feature="stage9")


def test_silhouettes_tell_apart_from_mixed():
    rng = np.random.default_rng(0)
    classes, domains = np.repeat([0, 1, 2], 40), np.tile([0, 1], 60)
    points = rng.normal(size=(120, 8)).astype(np.float32) + 10 * np.eye(8, dtype=np.float32)[classes]
    assert silhouette(points, classes) > 0.6
    assert abs(silhouette_within(points, domains, classes)) < 0.05
    apart = points + 20 * np.eye(8, dtype=np.float32)[7] * domains[:, None]
    assert silhouette_within(apart, domains, classes) > 0.6
    assert np.isnan(silhouette(points[:3], np.arange(3)))
    assert np.isnan(silhouette_within(points, np.zeros(120, int), classes))


def test_the_picture_keeps_clusters_and_repeats_itself():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], 15)
    points = rng.normal(size=(45, 6)).astype(np.float32) + 12 * np.eye(6, dtype=np.float32)[groups]
    flat = plane(points)
    assert flat.shape == (45, 2)
    assert silhouette(flat, groups) > 0.5
    np.testing.assert_array_equal(plane(points), flat)
    with pytest.raises(ValueError, match="at least 4 points; there are 3"):
        plane(points[:3])


def test_clouds_are_drawn_with_their_legends(tmp_path):
    chosen = choose(world("fog", "night"), images=4, pixels=2)
    found = clouds(features_of(Colours(True).eval(), chosen, NATIVE), chosen)
    assert [cloud.title for cloud in found] == [
        "decoder, by class", "decoder, by domain", "covariances of norm0, by domain", "covariances of norm1, by domain",
    ]  # fmt: skip
    figure = charts.embedding({"A": found, "B": found[:3]})  # B has no norm1
    figure.savefig(tmp_path / "embedding.png")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown[:4]] == [cloud.title for cloud in found]
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert [text.get_text() for text in legends[1].get_texts()] == ["fog", "night"]
    points = sum(len(dots.get_offsets()) for dots in figure.axes[0].collections)
    assert points == len(chosen.classes)


def test_what_cannot_be_embedded_is_refused():
    with pytest.raises(DataError, match="name of fog"):
        choose(world("fog", "fog"), images=1, pixels=1)
    with pytest.raises(DataError, match="no label"):
        choose([Streets("fog", "train", size=SIZE, use="adaptation", length=2)], images=1, pixels=1)
    with pytest.raises(DataError, match="no image has a pixel"):
        choose(world("fog", length=1, size=(2, 2)), images=1, pixels=1, classes=[17])
