"""HRDA: the crop, the fusion, the detail windows, each against its plain definition."""

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dgseg.models import Box, build
from dgseg.models.hrda import HRDA, scramble
from tests.models import published_mit as published
from tests.models.harness import tiny

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ["hrda_mitb0", "hrda_r101"]


def model_of(name: str, **options: object) -> HRDA:
    model = tiny(name, **options)
    assert isinstance(model, HRDA)
    return model


def training_with_still_norms(model: HRDA) -> HRDA:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def up2(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def test_published_parameters() -> None:
    with torch.device("meta"):
        model = build("hrda_mitb5")
    assert sum(p.numel() for p in model.parameters()) == 85_685_990


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("hrda_mitb5", published.mit("b5") | published.hrda_heads("b5")),
        (
            "hrda_r101",
            published.resnet101_v1c()
            | published.deeplabv2_head("decode_head.head.")
            | published.deeplabv2_head("decode_head.scale_attention."),
        ),
    ],
)
def test_every_published_key_has_its_place_and_shape(name: str, keys: published.Shapes) -> None:
    with torch.device("meta"):
        assert {key: tuple(tensor.shape) for key, tensor in build(name).state_dict().items()} == keys


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [0, 1, 2])
def test_training_fuses_as_published(name: str, step: int) -> None:
    model = training_with_still_norms(model_of(name))
    torch.manual_seed(0)
    images = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        got = model(images, seed=3, step=step)
        (aux,) = got.aux
        top, left, height, width = aux.box
        assert (height, width) == (64, 96)
        cropped = images[:, :, top : top + height, left : left + width]
        detail = model.decode_head.head(model.encode(cropped))[0]
        torch.testing.assert_close(aux.logits, detail)

        context_stages = model.encode(F.interpolate(images, size=(64, 96), mode="bilinear", align_corners=False))
        context = model.decode_head.head(context_stages)[0]
        attention = torch.sigmoid(model.decode_head.scale_attention(context_stages)[0])
        cells = [
            slice(a // (2 * model.stride), (a + b) // (2 * model.stride)) for a, b in [(top, height), (left, width)]
        ]
        mask = torch.zeros(1, 1, *context.shape[-2:])
        mask[(..., *cells)] = 1
        inserted = torch.zeros(2, context.shape[1], 128 // model.stride, 192 // model.stride)
        pixels = [slice(a // model.stride, (a + b) // model.stride) for a, b in [(top, height), (left, width)]]
        inserted[(..., *pixels)] = detail
        want = up2((1 - attention * mask) * context) + up2(attention * mask) * inserted
    torch.testing.assert_close(got.logits, want)
    assert got.extra["weight"] + aux.weight == pytest.approx(1)
    assert aux.weight == 0.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_batch", [1, 4, 9])
def test_inference_averages_overlapping_detail_windows(name: str, per_batch: int) -> None:
    model = model_of(name, windows_per_batch=per_batch).eval()
    torch.manual_seed(0)
    images = torch.randn(2, 3, 128, 160)
    stride, (height, width) = model.stride, (64, 80)
    total = torch.zeros(2, 5, 128 // stride, 160 // stride)
    count = torch.zeros(128 // stride, 160 // stride)
    with torch.no_grad():
        for top in (0, 32, 64):
            for left in (0, 40, 80):
                window = images[:, :, top : top + height, left : left + width]
                place = (
                    slice(top // stride, (top + height) // stride),
                    slice(left // stride, (left + width) // stride),
                )
                total[(..., *place)] += model.decode_head.head(model.encode(window))[0]
                count[place] += 1
        detail = total / count
        context_stages = model.encode(F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False))
        attention = torch.sigmoid(model.decode_head.scale_attention(context_stages)[0])
        want = up2((1 - attention) * model.decode_head.head(context_stages)[0]) + up2(attention) * detail
        got = model(images)
    torch.testing.assert_close(got.logits, want, rtol=1e-4, atol=1e-5)
    assert got.aux == []


def test_crops_reach_every_cell_of_the_grid_the_last_included() -> None:
    model, images = model_of("hrda_mitb0"), torch.empty(1, 3, 128, 200)
    boxes = [model.crop_box(images, 7, step) for step in range(2000)]
    assert {box.top for box in boxes} == set(range(0, 65, 8))
    assert {box.left for box in boxes} == set(range(0, 97, 8))  # half of 200 is 100: 104 in whole cells
    assert {(box.height, box.width) for box in boxes} == {(64, 104)}
    assert len({(box.top, box.left) for box in boxes}) == 9 * 13
    r101 = model_of("hrda_r101")
    assert {r101.crop_box(images[..., :128], 0, step).top for step in range(200)} == set(range(0, 65, 16))


def test_crops_are_a_function_of_seed_and_step_alone() -> None:
    model = model_of("hrda_mitb0")
    small, large = torch.empty(1, 3, 128, 128), torch.randn(4, 3, 128, 128)
    draws = [[model.crop_box(images, seed, step) for step in range(50)] for seed in (0, 1) for images in (small, large)]
    assert draws[0] == draws[1]
    assert draws[2] == draws[3]
    assert draws[0] != draws[2]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 2**40), axis=st.integers(0, 1))
def test_numbers_and_tensors_draw_the_same(seed: int, step: int, axis: int) -> None:
    drawn = scramble(seed, step, axis)
    assert 0 <= drawn < 2**31
    assert int(scramble(seed, torch.tensor(step), axis)) == drawn
    assert int(scramble(torch.tensor(seed), torch.tensor(step), axis)) == drawn


def test_draws_are_even_over_steps_and_seeds() -> None:
    for draw in (lambda i: (0, i), lambda i: (i, 0)):
        counts = torch.zeros(9, 9)
        for i in range(8100):
            counts[scramble(*draw(i), 0) % 9, scramble(*draw(i), 1) % 9] += 1
        chi_square = float(((counts - 100) ** 2 / 100).sum())
        assert chi_square < 125  # 80 degrees of freedom: passed with probability .999


@settings(max_examples=12, deadline=None)
@given(height=st.integers(64, 150), width=st.integers(64, 150))
def test_inference_takes_any_size(height: int, width: int) -> None:
    model = model_of("hrda_mitb0").eval()
    images = torch.randn(1, 3, height, width)
    with torch.no_grad():
        got = model(images).logits
        padded = model(F.pad(images, (0, -width % 8, 0, -height % 8))).logits
    assert got.shape == (1, 5, -(-height // 4), -(-width // 4))
    assert torch.equal(got, padded[..., : got.shape[-2], : got.shape[-1]])


def test_fixed_detail_side() -> None:
    model = model_of("hrda_mitb0", detail=64)
    prediction = model.train()(torch.randn(1, 3, 192, 96))
    assert prediction.aux[0].box[2:] == (64, 64)
    assert prediction.aux[0].logits.shape[-2:] == (16, 16)
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 200, 100)).logits.shape[-2:] == (50, 25)
    for wrong in (24, 68):
        with pytest.raises(ValueError, match="detail must be a multiple of 8 and at least 32"):
            model_of("hrda_mitb0", detail=wrong)
    with pytest.raises(ValueError, match="windows_per_batch must be at least 1"):
        model_of("hrda_mitb0", windows_per_batch=0)


def test_training_sizes_are_whole_cells() -> None:
    with pytest.raises(ValueError, match="multiples of 8; the images are 100x128"):
        model_of("hrda_mitb0").train()(torch.zeros(1, 3, 100, 128))


@pytest.mark.parametrize("as_tensor", [pytest.param(False, marks=pytest.mark.slow), True], ids=["number", "tensor"])
def test_a_new_crop_does_not_compile_again(as_tensor: bool) -> None:
    torch.compiler.reset()
    model, images = training_with_still_norms(model_of("hrda_mitb0")), torch.randn(1, 3, 128, 64)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    tops = set()
    for step in range(6):
        got = compiled(images, seed=1, step=torch.tensor(step) if as_tensor else step)
        want = model(images, seed=1, step=step)
        assert Box(*map(int, got.aux[0].box)) == want.aux[0].box
        torch.testing.assert_close(got.logits, want.logits)
        tops.add(want.aux[0].box.top)
    assert len(tops) > 2
    # A number is compiled in at its first value and becomes a variable at its second.
    assert counter.frame_count == (1 if as_tensor else 2)
