"""Component scores against SegmentMeIfYouCan's definition, written here with sets of pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.evaluation.components import THRESHOLDS, ComponentScores, Sizes, component_scores

IN, OUT, VOID = 0, 1, 255
ALL = Sizes(predicted=0, true=0)
Pixel = tuple[int, int]


def components(pixels: set[Pixel]) -> list[set[Pixel]]:
    """8-connected, by flooding."""
    left, found = set(pixels), []
    while left:
        open_, component = [left.pop()], set()
        while open_:
            y, x = open_.pop()
            component.add((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            open_ += around
        found.append(component)
    return found


def by_definition(predicted: np.ndarray, label: np.ndarray, sizes: Sizes) -> tuple[list[float], list[float]]:
    pixels = set(np.ndindex(label.shape))
    void = {p for p in pixels if label[p] == VOID}
    true = components({p for p in pixels if label[p] == OUT})
    found = [c for c in components({p for p in pixels - void if predicted[p]}) if len(c) >= sizes.predicted]
    background = pixels - set().union(*true)
    void |= set().union(*(c for c in [*true, background] if len(c) < sizes.true))
    true = [c - void for c in true if c - void]
    found = [c - void for c in found if c - void]
    sious = []
    for k in true:
        union = set().union(*(c for c in found if c & k))
        others = set().union(*(c for c in true if c is not k))
        sious.append(len(k & union) / len((k | union) - (union & others)))
    every = set().union(*true)
    return sious, [len(c & every) / len(c) for c in found]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([ALL, Sizes(3, 0), Sizes(0, 3), Sizes(4, 2), Sizes(2, 40)]))
def test_equal_to_the_definition(seed, sizes):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 14, 2)
    label = rng.choice([IN, IN, IN, OUT, OUT, VOID], (height, width)).astype(np.uint8)
    # Blocks make components of several pixels, and predictions that overlap them.
    label[: height // 2, : width // 2] = rng.choice([IN, OUT])
    predicted = (label == OUT) ^ (rng.random((height, width)) < 0.3)
    sious, ppvs = by_definition(predicted, label, sizes)
    siou, ppv = component_scores(predicted, label, sizes)
    np.testing.assert_allclose(sorted(siou), sorted(sious))
    np.testing.assert_allclose(sorted(ppv), sorted(ppvs))

    tally = ComponentScores(sizes)
    tally.update(torch.from_numpy(predicted)[None], torch.from_numpy(label)[None])
    result = tally.result()
    f1 = []
    for threshold in THRESHOLDS:
        found, false = sum(s >= threshold for s in sious), sum(p < threshold for p in ppvs)
        every = 2 * found + len(sious) - found + false
        f1.append(2 * found / every if every else math.nan)
    np.testing.assert_allclose(result.f1, np.mean(f1))
    np.testing.assert_allclose(result.siou, np.mean(sious) if sious else math.nan, atol=1e-11)
    np.testing.assert_allclose(result.ppv, np.mean(ppvs) if ppvs else math.nan, atol=1e-11)


def test_one_prediction_over_two_neighbours_is_not_punished_twice():
    label = np.full((5, 12), IN, np.uint8)
    label[1:4, 1:4] = label[1:4, 6:9] = OUT
    predicted = np.zeros(label.shape, bool)
    predicted[1:4, 1:9] = True  # both, and the two columns between them
    siou, ppv = component_scores(predicted, label, ALL)
    np.testing.assert_allclose(siou, [9 / (9 + 6)] * 2)  # IoU would be 9 / 24
    np.testing.assert_allclose(ppv, [18 / 24])


def test_a_true_component_in_two_pieces_is_found_by_both():
    label = np.full((5, 12), IN, np.uint8)
    label[1:4, 1:11] = OUT
    predicted = label == OUT
    predicted[:, 5] = False
    siou, ppv = component_scores(predicted, label, ALL)
    np.testing.assert_allclose(siou, [27 / 30])
    np.testing.assert_allclose(ppv, [1, 1])


def test_merged_parts_are_the_whole():
    rng = np.random.default_rng(0)
    label = torch.from_numpy(rng.choice([IN, OUT, VOID], (5, 30, 30), p=[0.7, 0.25, 0.05]).astype(np.uint8))
    predicted = (label == OUT) ^ torch.from_numpy(rng.random(label.shape) < 0.1)
    whole, merged = ComponentScores(Sizes(2, 2)), ComponentScores(Sizes(2, 2))
    whole.update(predicted, label)
    for part in (slice(3, 5), slice(0, 3)):
        other = ComponentScores(Sizes(2, 2))
        other.update(predicted[part], label[part])
        merged.merge(other)
    assert whole.result() == merged.result()
    assert whole.result().true_components > 5


def test_nothing_and_mistakes():
    empty = ComponentScores().result()
    assert math.isnan(empty.siou)
    assert math.isnan(empty.f1)
    labels = torch.full((1, 4, 4), IN, dtype=torch.uint8)
    with pytest.raises(ValueError, match="compare scores with a threshold"):
        ComponentScores().update(torch.zeros(1, 4, 4), labels)
    with pytest.raises(ValueError, match="outside_map"):
        ComponentScores().update(labels > 0, labels + 254)
    with pytest.raises(ValueError, match="predicted=500"):
        ComponentScores(Sizes(50, 10)).merge(ComponentScores())
