"""Calibration from strips of upsampled logits, against the whole image in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dgseg.bench.inputs import label_map, logits
from dgseg.evaluation import Calibration, entropy_map, maps


@pytest.fixture(params=[1, 5000, 1 << 22], ids=["a row at a time", "some rows", "whole images"])
def strip_values(request, monkeypatch):
    monkeypatch.setattr(maps, "_STRIP_VALUES", request.param)


@pytest.mark.parametrize(
    ("h", "w", "H", "W"), [(8, 16, 32, 64), (5, 7, 18, 29), (9, 9, 9, 9), (20, 30, 9, 11), (1, 1, 4, 5)]
)
def test_strips_are_what_interpolation_makes(h, w, H, W, strip_values):
    low = logits(2, h, w, smooth=False)
    whole = F.interpolate(low, size=(H, W), mode="bilinear", align_corners=False)
    seen = torch.full_like(whole, math.nan)
    for image, rows, strip in maps.strips(low, (H, W)):
        seen[image, :, rows] = strip
    torch.testing.assert_close(seen, whole, rtol=1e-5, atol=1e-5)


def test_against_the_definition(strip_values):
    low = logits(2, 16, 32, smooth=True)
    labels = label_map(2, 64, 128, ignored=0.1)
    labels[0, :5] = 254
    labels[1] = torch.where(labels[1] < 254, F.interpolate(low[1:], size=(64, 128), mode="bilinear").argmax(1)[0], 255)
    tally = Calibration()
    tally.update(low, labels)
    result = tally.result()

    p = F.interpolate(low.double(), size=(64, 128), mode="bilinear").softmax(1)
    valid = labels < 254
    confidence, predicted = (found[valid].numpy() for found in p.max(1))
    right = predicted == labels[valid].numpy()
    entropy = -(p * p.log()).sum(1)[valid].numpy()
    place = np.minimum((confidence * 15).astype(int), 14)
    bins = [place == b for b in range(15)]
    ece = sum(abs(right[b].mean() - confidence[b].mean()) * b.mean() for b in bins if b.any())
    assert result.pixels.sum() == valid.sum()
    # Pixels at an edge between bins may fall either way in another precision.
    assert np.abs(result.pixels - [b.sum() for b in bins]).max() <= 2
    assert result.ece == pytest.approx(ece, abs=1e-4)
    assert result.entropy_right == pytest.approx(entropy[right].mean(), rel=1e-4)
    assert result.entropy_wrong == pytest.approx(entropy[~right].mean(), rel=1e-4)
    torch.testing.assert_close(
        entropy_map(low, (64, 128)).double(), -(p * p.log()).sum(1) / math.log(19), rtol=1e-4, atol=1e-5
    )


def test_a_calibrated_model_has_no_error_and_a_boastful_one_has():
    g = torch.Generator().manual_seed(0)
    low = logits(1, 200, 300, smooth=False)
    truth = torch.multinomial(low[0].softmax(0).flatten(1).T, 1, generator=g).view(1, 200, 300).to(torch.uint8)
    honest, boastful = Calibration(), Calibration()
    honest.update(low, truth)
    boastful.update(4 * low, truth)
    assert honest.result().ece < 0.01
    assert boastful.result().ece > 0.2
    assert np.isnan(honest.result().accuracy[0])  # no pixel is less sure than 1/15


def test_merged_parts_are_the_whole_to_the_last_digit():
    low, labels = logits(4, 8, 16, smooth=True), label_map(4, 32, 64)
    whole, merged = Calibration(), Calibration()
    whole.update(low, labels)
    for part in (slice(3, 4), slice(0, 2), slice(2, 3)):
        other = Calibration()
        other.update(low[part], labels[part].long())
        merged.merge(other)
    assert whole.result().ece == merged.result().ece
    assert torch.equal(whole.counts["bins"], merged.counts["bins"])
    assert torch.equal(whole.counts["entropy"], merged.counts["entropy"])


def test_certainty_infinity_and_nothing():
    assert math.isnan(Calibration().result().ece)
    tally = Calibration()
    sure = torch.full((1, 3, 2, 2), -math.inf)
    sure[:, 1] = 0
    tally.update(sure, torch.ones(1, 2, 2, dtype=torch.uint8))
    assert (tally.result().ece, tally.result().entropy_right) == (0.0, 0.0)
    assert float(entropy_map(sure, (2, 2)).abs().max()) == 0
    with pytest.raises(ValueError, match="NaN"):
        tally.update(sure * 0, torch.ones(1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="labels hold 7"):
        tally.update(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 7, dtype=torch.uint8))
    with pytest.raises(ValueError, match="bins must be"):
        Calibration(0)
