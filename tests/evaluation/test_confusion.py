"""Scores against the official Cityscapes evaluator's arithmetic, written here from its definition on raw ids."""

import math

import numpy as np
import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgseg.data.labels import CITYSCAPES_IDS, CITYSCAPES_TO_TRAIN
from dgseg.evaluation import SYNTHIA_16, BoundaryErrors, Confusion
from dgseg.evaluation.confusion import iou_parts, mean_iou
from dgseg.evaluation.maps import predicted_labels

IGNORED_IDS = sorted(set(range(34)) - set(CITYSCAPES_IDS))


def official(truth_ids: np.ndarray, predicted_ids: np.ndarray) -> tuple[dict[int, float], float]:
    """IoU per raw id and their mean. All 34 ids are in the table; what is ignored is so in its rows alone, except
    that an ignored id has no score of its own."""
    table = [[0] * 34 for _ in range(34)]
    for t, p in zip(truth_ids.ravel().tolist(), predicted_ids.ravel().tolist(), strict=True):
        table[t][p] += 1
    iou = {}
    for label in CITYSCAPES_IDS:
        tp = table[label][label]
        fn = sum(table[label]) - tp
        fp = sum(table[other][label] for other in CITYSCAPES_IDS if other != label)
        iou[label] = tp / (tp + fn + fp) if tp + fn + fp else math.nan
    there = [value for value in iou.values() if not math.isnan(value)]
    return iou, sum(there) / len(there) if there else math.nan


def as_train(ids: np.ndarray) -> Tensor:
    return torch.from_numpy(CITYSCAPES_TO_TRAIN[ids])


def counted(predicted: Tensor, labels: Tensor, classes: int = 19) -> Confusion:
    confusion = Confusion(classes)
    confusion.update_labels(predicted, labels)
    return confusion


def images(seed: int, N: int = 4, H: int = 20, W: int = 30, classes: int = 19) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (N, H, W), generator=g, dtype=torch.uint8)
    predicted = torch.where(
        torch.rand(labels.shape, generator=g) < 0.6, labels, torch.randint(0, classes, labels.shape, generator=g)
    ).to(torch.uint8)
    labels[torch.rand(labels.shape, generator=g) < 0.1] = 255
    labels[torch.rand(labels.shape, generator=g) < 0.05] = 254
    predicted[torch.rand(labels.shape, generator=g) < 0.1] = 255
    return predicted, labels


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    kinds=st.lists(st.integers(0, 33), min_size=1, max_size=12, unique=True),
    predicted_kinds=st.lists(st.integers(0, 33), min_size=1, max_size=12, unique=True),
)
def test_equal_to_the_official_evaluator(seed, kinds, predicted_kinds):
    """Few kinds of either side, so that classes are absent from truth, from predictions, or from both."""
    rng = np.random.default_rng(seed)
    truth, predicted = rng.choice(kinds, (2, 7, 9)), rng.choice(predicted_kinds, (2, 7, 9))
    iou, mean = official(truth, predicted)
    scores = counted(as_train(predicted), as_train(truth)).scores()
    np.testing.assert_array_equal(scores.iou, [iou[label] for label in CITYSCAPES_IDS])
    np.testing.assert_allclose(scores.miou, mean, rtol=1e-15)


def test_the_conventions_one_by_one():
    truth = torch.tensor([[[0, 0, 0, 0, 1, 1, 255, 254]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 0, 255, 2, 1, 0, 3, 3]]], dtype=torch.uint8)
    scores = counted(predicted, truth, 5).scores()
    # 0: 2 right, 1 void and 1 taken for 2 are false negatives, 1 false positive. 2: predicted but absent: 0.
    # 3: predicted on void alone: absent. 4: absent from both.
    np.testing.assert_array_equal(scores.iou, [2 / 5, 1 / 2, 0, np.nan, np.nan])
    np.testing.assert_array_equal(scores.accuracy, [2 / 4, 1 / 2, np.nan, np.nan, np.nan])
    assert scores.miou == pytest.approx((2 / 5 + 1 / 2 + 0) / 3)
    assert scores.macc == pytest.approx(1 / 2)
    assert scores.pixel_accuracy == pytest.approx(3 / 6)
    assert scores.pixels == 6


def test_nothing_counted_is_nan_and_not_zero():
    scores = Confusion().scores()
    assert math.isnan(scores.miou)
    assert math.isnan(scores.macc)
    assert math.isnan(scores.pixel_accuracy)
    assert scores.pixels == 0
    confusion = Confusion()
    confusion.update_labels(torch.zeros(0, 4, 4, dtype=torch.uint8), torch.zeros(0, 4, 4, dtype=torch.uint8))
    confusion.update(torch.zeros(0, 19, 1, 1), torch.zeros(0, 4, 4, dtype=torch.uint8))
    assert int(confusion.matrix.sum()) == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_logits_and_label_maps_count_alike(dtype):
    _, labels = images(3, H=32, W=48)
    # Whole numbers at a quarter of the size: interpolation is exact, ties abound.
    logits = torch.randint(-4, 5, (4, 19, 8, 12), generator=torch.Generator().manual_seed(0)).float()
    by_logits = Confusion()
    returned = by_logits.update(logits, labels.to(dtype))
    by_labels = counted(predicted_labels(logits, (32, 48)).to(dtype), labels.to(dtype))
    assert torch.equal(by_logits.matrix, by_labels.matrix)
    assert torch.equal(returned, by_logits.matrix)
    assert int(by_logits.matrix.sum()) == int((labels < 254).sum())


def test_merged_parts_are_the_whole_and_states_travel(tmp_path):
    predicted, labels = images(1)
    whole, merged = counted(predicted, labels), Confusion()
    for i in (2, 0, 3, 1):
        part = counted(predicted[i : i + 1], labels[i : i + 1])
        torch.save(part.state_dict(), tmp_path / "part.pt")
        restored = Confusion()
        restored.load_state_dict(torch.load(tmp_path / "part.pt", weights_only=True))
        merged.merge(restored)
    assert torch.equal(whole.matrix, merged.matrix)
    assert whole.scores().miou == merged.scores().miou
    merged.reset()
    assert int(merged.matrix.sum()) == 0


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    predicted, labels = images(1)
    mine = counted(predicted[rank * 3 : rank * 3 + 3], labels[rank * 3 : rank * 3 + 3])  # 3 images and 1
    torch.save(mine.all_reduce().matrix, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_count_what_one_process_counts(tmp_path):
    torch.multiprocessing.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    whole = counted(*images(1)).matrix
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), whole)


def test_synthia_on_16_classes():
    predicted, labels = images(5)
    confusion = counted(predicted, labels)
    everything = confusion.scores()
    some = confusion.scores(SYNTHIA_16)
    assert len(some.iou) == 16
    assert set(range(19)) - set(SYNTHIA_16) == {9, 14, 16}  # terrain, truck, train
    np.testing.assert_array_equal(some.iou, everything.iou[list(SYNTHIA_16)])
    assert some.miou == pytest.approx(everything.iou[list(SYNTHIA_16)].mean())

    # An evaluator that knows 16 classes: the others are void in truth and in predictions.
    table = torch.full((256,), 255, dtype=torch.uint8)
    table[list(SYNTHIA_16)] = torch.arange(16, dtype=torch.uint8)
    knows_16 = counted(table[predicted.long()], table[labels.long()], 16).scores()
    void = confusion.scores(SYNTHIA_16, others="void")
    np.testing.assert_array_equal(void.iou, knows_16.iou)
    np.testing.assert_array_equal(void.accuracy, knows_16.accuracy)
    assert (void.pixels, void.pixel_accuracy) == (knows_16.pixels, knows_16.pixel_accuracy)
    assert void.miou > some.miou


def test_images_add_up_to_the_data_set():
    predicted, labels = images(2)
    parts = np.stack([iou_parts(counted(predicted[i : i + 1], labels[i : i + 1]).matrix) for i in range(4)])
    assert parts.shape == (4, 3, 19)
    assert mean_iou(parts.sum(0)) == counted(predicted, labels).scores().miou


def test_what_cannot_be_right_is_refused():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    confusion = Confusion()
    broken = torch.zeros(1, 19, 2, 2)
    broken[0, 3, 1, 1] = math.nan
    with pytest.raises(ValueError, match="NaN at batch index 0"):
        confusion.update(broken, labels)
    with pytest.raises(ValueError, match="labels hold 33"):
        confusion.update(torch.zeros(1, 19, 2, 2), labels + 33)
    with pytest.raises(ValueError, match=r"predictions hold 33.*map raw ids"):
        confusion.update_labels(labels + 33, labels)
    with pytest.raises(ValueError, match=r"labels hold 19"):
        confusion.update_labels(labels, labels + 19)
    with pytest.raises(ValueError, match="labels hold -1"):
        confusion.update_labels(labels, labels.int() - 1)
    with pytest.raises(ValueError, match="labels' size first"):
        confusion.update_labels(labels[:, :2], labels)
    with pytest.raises(ValueError, match="18 classes, this counts 19"):
        confusion.update(torch.zeros(1, 18, 2, 2), labels)
    with pytest.raises(ValueError, match="num_classes=19"):
        confusion.merge(Confusion(7))
    with pytest.raises(ValueError, match="counts of BoundaryErrors"):
        confusion.load_state_dict(BoundaryErrors().state_dict())
    with pytest.raises(ValueError, match="different numbers"):
        confusion.scores([0, 0])
    with pytest.raises(ValueError, match="different numbers"):
        confusion.scores([])
    assert int(confusion.matrix.sum()) == 0
