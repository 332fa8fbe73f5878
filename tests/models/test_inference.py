"""Whole and sliding inference against the published protocol written as a loop over single windows."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dgseg.models import Prediction
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_logits, predict_strips
from dgseg.models.windows import window_starts
from tests.models.harness import CLASSES, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


class Local(SegmentationModel):
    """A model whose logits depend on their surroundings and on the window's border, as real ones do."""

    minimum = 4

    def __init__(self, multiple: int = 1, stride: int = 2) -> None:
        super().__init__(3)
        torch.manual_seed(0)
        self.multiple = multiple
        self.conv = nn.Conv2d(3, 3, 5, stride, 2)
        self.calls: list[tuple[int, ...]] = []

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        self.calls.append(tuple(images.shape))
        assert images.shape[-2] % self.multiple == images.shape[-1] % self.multiple == 0
        return Prediction(self.conv(images), {}, [], {})


def published(
    model: SegmentationModel, images: Tensor, window: tuple[int, int], stride: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    count, _, height, width = images.shape
    total, covered = torch.zeros(count, 3, height, width), torch.zeros(height, width)
    for row in range(max(height - window[0] + stride[0] - 1, 0) // stride[0] + 1):
        for column in range(max(width - window[1] + stride[1] - 1, 0) // stride[1] + 1):
            bottom, right = min(row * stride[0] + window[0], height), min(column * stride[1] + window[1], width)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            crop = images[:, :, top:bottom, left:right]
            padded = F.pad(crop, (0, -crop.shape[3] % model.multiple, 0, -crop.shape[2] % model.multiple))
            logits = F.interpolate(model(padded).logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
            total[:, :, top:bottom, left:right] += logits[..., : crop.shape[2], : crop.shape[3]]
            covered[top:bottom, left:right] += 1
    return F.interpolate(total / covered, size=size, mode="bilinear", align_corners=False)


sides = st.integers(4, 40)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(sides, sides),
    window=st.tuples(sides, sides),
    data=st.data(),
    multiple=st.sampled_from([1, 4, 7]),
    batch=st.sampled_from([None, 1, 3]),
)
def test_equals_the_published_protocol(size, window, data, multiple: int, batch: int | None) -> None:
    stride = tuple(data.draw(st.integers(1, min(pair))) for pair in zip(window, size, strict=True))
    labels = data.draw(st.tuples(sides, sides))
    model = Local(multiple).eval()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    got = predict_logits(model, images, window=window, stride=stride, windows_per_batch=batch, size=labels)
    with torch.no_grad():
        torch.testing.assert_close(got, published(model, images, window, stride, labels), rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(sides, sides),
    window=st.one_of(st.none(), st.tuples(sides, sides)),
    data=st.data(),
    batch=st.sampled_from([1, 3]),
)
def test_strips_are_the_whole_cut_into_rows(size, window, data, batch: int) -> None:
    stride = window and tuple(data.draw(st.integers(1, min(pair))) for pair in zip(window, size, strict=True))
    model = Local(4).eval()
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = predict_logits(model, image, window=window, stride=stride)[0]
    below = 0
    for rows, logits in predict_strips(model, image, window=window, stride=stride, windows_per_batch=batch):
        assert rows.start == below
        assert not logits.requires_grad
        torch.testing.assert_close(logits, whole[:, rows], rtol=1e-5, atol=1e-6)
        below = rows.stop
    assert below == size[0]


def test_strips_hold_no_more_than_a_window_s_height() -> None:
    model, image = Local().eval(), torch.randn(1, 3, 400, 24)
    heights = [logits.shape[1] for _, logits in predict_strips(model, image, window=16)]
    assert sum(heights) == 400
    assert max(heights) == 16
    with pytest.raises(ValueError, match="one image; these are 2"):
        next(predict_strips(model, image.repeat(2, 1, 1, 1)))


@pytest.mark.parametrize("name", ["bisenet_mini", "hrda_mitb0", "deeplabv3plus_r50"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (40, 7)])
def test_images_that_are_too_small_are_padded_with_the_mean_colour(name: str, size: tuple[int, int]) -> None:
    model = tiny(name).eval()
    pixels = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    needed = [max(side, model.minimum) for side in size]
    padded = torch.zeros(1, 3, *(side + -side % model.multiple for side in needed))
    padded[..., : size[0], : size[1]] = model.normalise(pixels)
    with torch.no_grad():
        want = F.interpolate(model(padded).logits, size=padded.shape[-2:], mode="bilinear")
    torch.testing.assert_close(predict_logits(model, pixels), want[..., : size[0], : size[1]])


def test_whole_is_one_window_and_half_a_window_is_the_default_stride() -> None:
    model, images = Local().eval(), torch.randn(2, 3, 30, 41)
    with torch.no_grad():
        whole = F.interpolate(model(images).logits, size=(30, 41), mode="bilinear")
    assert torch.equal(predict_logits(model, images), whole)
    assert torch.equal(predict_logits(model, images, window=64), whole)
    assert torch.equal(
        predict_logits(model, images, window=16), predict_logits(model, images, window=(16, 16), stride=(8, 8))
    )


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (1024, 512, 256, [0, 256, 512]),
        (1080, 1024, 512, [0, 56]),  # the last one moves back inside
        (1920, 1024, 512, [0, 512, 896]),
        (960, 512, 256, [0, 256, 448]),
        (512, 512, 256, [0]),
        (300, 512, 256, [0]),
    ],
)
def test_window_starts(length: int, window: int, stride: int, starts: list[int]) -> None:
    assert window_starts(length, window, stride) == starts


def test_batches_are_as_large_as_asked_and_no_larger() -> None:
    model, images = Local().eval(), torch.randn(2, 3, 16, 24)
    predict_logits(model, images, window=8, stride=8, windows_per_batch=5)
    assert model.calls == [(5, 3, 8, 8), (5, 3, 8, 8), (2, 3, 8, 8)]
    model.calls.clear()
    predict_logits(model, images, window=8, stride=8)
    assert model.calls == 6 * [(2, 3, 8, 8)]


def test_memory_is_the_output_and_one_batch_of_windows() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    class Watched(Local):
        def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
            nonlocal most
            prediction = super().predict(images, seed=seed, step=step)
            alive.add(images)
            alive.add(prediction.logits)
            most = max(most, sum(tensor.nbytes for tensor in alive))
            return prediction

    images = torch.randn(1, 3, 64, 64)
    predict_logits(Watched().eval(), images, window=8, stride=4, windows_per_batch=2)
    batch = 2 * 3 * 8 * 8 * 4
    assert most <= 2 * batch  # a batch of windows and its logits; never those of an earlier batch


def test_bytes_are_normalised_before_padding() -> None:
    model = Local(multiple=8).eval()
    pixels = torch.randint(0, 256, (1, 3, 13, 21), dtype=torch.uint8)
    assert torch.equal(predict_logits(model, pixels), predict_logits(model, model.normalise(pixels)))


@pytest.mark.parametrize("name", ["segformer_b0", "daformer_mitb0", "hrda_mitb0", "hrda_r101", "bisenet_mini"])
def test_real_models(name: str) -> None:
    model = tiny(name).eval()
    images = torch.randint(0, 256, (1, 3, 131, 170), dtype=torch.uint8)
    logits = predict_logits(model, images, window=96, windows_per_batch=2, size=(65, 85))
    assert logits.shape == (1, CLASSES, 65, 85)
    assert logits.isfinite().all()
    assert not logits.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = predict_logits(model, images, window=96, size=(65, 85))
    assert low.dtype is torch.float32
    assert float((low - logits).norm() / logits.norm()) < 0.05


@pytest.mark.parametrize("name", ["deeplabv2_r101", "deeplabv3plus_r50"])
def test_logits_are_upsampled_as_the_published_evaluation_does_when_asked(name: str) -> None:
    model, aligned = tiny(name).eval(), tiny(name, align_corners=True).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        low = model(images).logits
    for each, align in ((model, False), (aligned, True)):
        want = F.interpolate(low, size=(64, 96), mode="bilinear", align_corners=align)
        torch.testing.assert_close(predict_logits(each, images), want)


def test_wrong_arguments_are_explained() -> None:
    model, images = Local(), torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        predict_logits(model.train(), images)
    model.eval()
    with pytest.raises(ValueError, match="stride is given without a window"):
        predict_logits(model, images, stride=8)
    with pytest.raises(ValueError, match=r"stride \[17, 17\] leaves gaps between windows of \[16, 16\]"):
        predict_logits(model, images, window=16, stride=17)
    with pytest.raises(ValueError, match="windows_per_batch must be at least 1"):
        predict_logits(model, images, windows_per_batch=0)
    with pytest.raises(ValueError, match="window must be one positive number"):
        predict_logits(model, images, window=0)
    with pytest.raises(ValueError, match=r"images must be \[N, 3, H, W\]"):
        predict_logits(model, images[0])
