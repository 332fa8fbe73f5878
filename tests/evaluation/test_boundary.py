"""Errors by distance to a boundary and boundary IoU, pixel by pixel from their definitions."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgseg.bench.inputs import label_map
from dgseg.evaluation import BoundaryErrors, BoundaryIou, Confusion


def distance(label: np.ndarray, y: int, x: int) -> int:
    """Chessboard distance of a valid pixel to the nearest valid pixel of another class; a large number if none is."""
    ys, xs = np.nonzero((label != 255) & (label != label[y, x]))
    return int(np.maximum(abs(ys - y), abs(xs - x)).min()) if len(ys) else 10**6


def blobs(seed: int, N: int = 2, H: int = 24, W: int = 40) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (2, N, -(-H // 8), -(-W // 8))).astype(np.uint8)
    labels, predicted = coarse.repeat(8, 2).repeat(8, 3)[:, :, :H, :W]
    predicted = np.where(rng.random(labels.shape) < 0.8, labels, predicted)
    labels, predicted = labels.copy(), predicted.copy()
    labels[rng.random(labels.shape) < 0.02] = 255
    predicted[rng.random(labels.shape) < 0.02] = 255
    return torch.from_numpy(predicted), torch.from_numpy(labels)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(1, 2, 4, 8, 16), (3,), (2, 5)]))
def test_errors_by_distance(seed, radii):
    predicted, labels = blobs(seed)
    tally = BoundaryErrors(5, radii)
    tally.update_labels(predicted, labels)
    pixels, wrong = np.zeros((2, len(radii) + 1, 5), int)
    for label, prediction in zip(labels.numpy(), predicted.numpy(), strict=True):
        for y, x in zip(*np.nonzero(label != 255), strict=True):
            band = int(np.searchsorted(radii, distance(label, y, x)))
            pixels[band, label[y, x]] += 1
            wrong[band, label[y, x]] += prediction[y, x] != label[y, x]
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(tally.error(), wrong.sum(1) / pixels.sum(1))
        np.testing.assert_allclose(tally.class_error(), wrong / pixels)
    np.testing.assert_array_equal(tally.pixels(), pixels.sum(1))


def test_trimaps_end_at_the_whole_image():
    predicted, labels = blobs(0)
    labels[0, 5:8, 5:8] = 254  # out-of-distribution pixels are void
    tally, whole = BoundaryErrors(5), Confusion(5)
    tally.update_labels(predicted, labels)
    whole.update_labels(predicted, labels)
    assert torch.equal(tally.counts["pixels"].sum(0), whole.matrix)
    trimap = tally.trimap()
    assert trimap[-1].miou == whole.scores().miou
    assert [found.pixels for found in trimap] == tally.pixels().cumsum().tolist()
    assert tally.names == ("1 px", "2 px", "3–4 px", "5–8 px", "9–16 px", "interior")


def published_boundary(mask: np.ndarray, ratio: float) -> np.ndarray:
    """The mask without what is left of it after d erosions by 3x3, the outside of the image being no mask."""
    d = max(1, round(ratio * float(np.hypot(*mask.shape))))
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask - cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=d)[1:-1, 1:-1]


@pytest.mark.parametrize(("ratio", "seed"), [(0.02, 0), (0.05, 1), (0.1, 2), (0.9, 3)])
def test_boundary_iou_as_published(ratio, seed):
    predicted, labels = blobs(seed, N=3)
    tally = BoundaryIou(6, ratio)  # a sixth class, absent from both
    tally.update_labels(predicted, labels)
    shared, union = np.zeros((2, 6), int)
    for label, prediction in zip(labels.numpy(), predicted.numpy(), strict=True):
        for c in range(6):
            truth = published_boundary((label == c).astype(np.uint8), ratio) > 0
            found = (published_boundary((prediction == c).astype(np.uint8), ratio) > 0) & (label != 255)
            shared[c] += (truth & found).sum()
            union[c] += (truth | found).sum()
    with np.errstate(invalid="ignore"):
        expected = shared / union
    np.testing.assert_allclose(tally.class_iou(), expected)
    assert tally.mean_iou() == pytest.approx(np.nanmean(expected))


def test_boundary_iou_sees_what_iou_overlooks():
    labels = label_map(1, 256, 512)
    shifted = labels.roll(3, 2)
    confusion, boundary = Confusion(), BoundaryIou(ratio=0.005)
    confusion.update_labels(shifted, labels)
    boundary.update_labels(shifted, labels)
    assert boundary.mean_iou() < confusion.scores().miou - 0.05


@pytest.mark.parametrize("kind", [BoundaryErrors, BoundaryIou])
def test_merged_parts_are_the_whole(kind):
    predicted, labels = blobs(4, N=4)
    whole, merged = kind(5), kind(5)
    whole.update_labels(predicted, labels)
    for part in (slice(1, 4), slice(0, 1)):
        other = kind(5)
        other.update_labels(predicted[part], labels[part].int())
        merged.merge(other)
    for name, counts in whole.counts.items():
        assert torch.equal(counts, merged.counts[name])


def test_nothing_and_mistakes():
    assert np.isnan(BoundaryErrors().error()).all()
    assert np.isnan(BoundaryIou().mean_iou())
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    for tally in (BoundaryErrors(), BoundaryIou()):
        with pytest.raises(ValueError, match="33"):
            tally.update_labels(labels + 33, labels)
    with pytest.raises(ValueError, match="share of the image's diagonal"):
        BoundaryIou(ratio=0)
    with pytest.raises(ValueError, match="radii"):
        BoundaryErrors(5, (1, 2)).merge(BoundaryErrors(5, (1, 3)))
