"""Sizes as the published protocols have them, averages, and conditions that add up to their data set."""

import pytest
import torch

from dgseg.evaluation.confusion import Confusion
from dgseg.evaluation.protocols import PROTOCOLS, averages, by_dataset, fit


@pytest.mark.parametrize(
    ("protocol", "dataset", "size", "shown"),
    [
        ("paper-daformer", "cityscapes", (1024, 2048), (512, 1024)),
        ("paper-daformer", "bdd100k", (720, 1280), (512, 910)),  # 910.2: the shorter side decides
        ("paper-daformer", "mapillary", (3024, 4032), (512, 683)),  # 682.7
        ("paper-daformer", "mapillary", (4032, 3024), (683, 512)),  # upright: the longer side is within 1024
        ("paper-daformer", "mapillary", (1000, 4000), (256, 1024)),  # the longer side decides
        ("paper-daformer", "acdc", (1080, 1920), (540, 960)),
        ("paper-daformer", "dark_zurich", (1080, 1920), (540, 960)),
        ("paper-hrda", "cityscapes", (1024, 2048), (1024, 2048)),
        ("paper-hrda", "bdd100k", (720, 1280), (1024, 1820)),  # enlarged
        ("paper-hrda", "acdc", (1080, 1920), (1080, 1920)),
        ("native", "acdc", (1080, 1920), (1080, 1920)),
        ("streets", "streets", (96, 192), (96, 192)),
    ],
)
def test_image_sizes(protocol, dataset, size, shown):
    assert PROTOCOLS[protocol].image_size(dataset, size) == shown


def test_a_thin_image_keeps_a_pixel():
    assert fit((1, 5000), (512, 1024)) == (1, 1024)
    with pytest.raises(ValueError, match="at least 1"):
        fit((0, 10), (512, 1024))


def test_the_paper_says_nothing_of_other_data():
    with pytest.raises(ValueError, match=r"says nothing about 'streets'.*native"):
        PROTOCOLS["paper-hrda"].image_size("streets", (96, 192))


def test_the_description_says_what_was_done():
    text = PROTOCOLS["paper-daformer"].describe(["cityscapes", "acdc"])
    for needed in ("fitted into 1024x512", "fitted into 960x540", "512x512 every 256", "void predictions", "mAcc"):
        assert needed in text
    assert "whole image" in PROTOCOLS["native"].describe(["acdc"])


def test_averages_need_all_their_members():
    mious = {"acdc": 0.4, "dark_zurich": 0.3}
    assert averages(mious) == {"Avg2": pytest.approx(0.35)}
    mious |= {"cityscapes": 0.5, "bdd100k": 0.6, "mapillary": 0.7}
    assert averages(mious) == {
        "Avg2": pytest.approx(0.35), "Avg3": pytest.approx(0.6), "Avg5": pytest.approx(0.5),
    }  # fmt: skip


def test_conditions_add_up_in_pixels_not_in_scores():
    fog, night, city = Confusion(2), Confusion(2), Confusion(2)
    fog.matrix[0, 0] = 90
    night.matrix[0, 1] = 10
    city.matrix[1, 1] = 5
    found = by_dataset({"acdc/fog": fog, "acdc/night": night, "cityscapes": city})
    assert list(found) == ["acdc", "acdc/fog", "acdc/night", "cityscapes"]
    assert torch.equal(found["acdc"].matrix, torch.tensor([[90, 10, 0], [0, 0, 0]]))
    assert found["acdc"].scores().miou == pytest.approx((0.9 + 0) / 2)
    assert int(fog.matrix.sum()) == 90  # the parts stay what they were
