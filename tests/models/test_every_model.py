"""What holds for every architecture, at tiny size."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dgseg.models import build, load_weights, save_weights
from dgseg.models.build import MODELS
from tests.models.harness import CLASSES, TINY, images, loss, tiny

NAMES = sorted(name for name, row in TINY.items() if row.size_of is None)
pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_model_has_a_row() -> None:
    assert set(TINY) == set(MODELS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
def test_shapes_and_features(name: str, odd: bool) -> None:
    row, model, batch = TINY[name], tiny(name), images(name, odd=odd)
    prediction = model.train()(batch)
    height, width = map(row.logits_side, batch.shape[-2:])
    assert prediction.logits.shape == (2, CLASSES, height, width)
    assert set(prediction.features) == row.features
    assert len(prediction.aux) == row.aux
    assert all(aux.logits.shape[:2] == (2, CLASSES) and aux.weight > 0 for aux in prediction.aux)
    loss(prediction).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{key} has no part in the losses"
            assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", NAMES)
def test_eval_has_no_aux_and_repeats_bit_for_bit(name: str) -> None:
    model, batch = tiny(name).eval(), images(name, 1)
    with torch.no_grad():
        first, second = model(batch), model(batch)
    assert first.aux == []
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.logits, tiny(name).eval()(batch).logits)  # and building is a function of the seed


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_normalised_inside(name: str) -> None:
    model = tiny(name).eval()
    pixels = torch.randint(0, 256, images(name, 1).shape, dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, model(model.normalise(pixels)).logits)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_in_low_precision_takes_any_images(name: str) -> None:
    model = tiny(name).bfloat16().eval()
    pixels = torch.randint(0, 256, images(name, 1).shape, dtype=torch.uint8)
    with torch.no_grad():
        logits = model(pixels).logits
        assert torch.equal(logits, model(model.normalise(pixels)).logits)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["bisenet_r18", "deeplabv3plus_r50"])
def test_one_image_alone_cannot_train_a_norm_over_pooled_maps(name: str) -> None:
    model = tiny(name)
    with pytest.raises(ValueError, match="give every worker two or more, or share statistics"):
        model.train()(images(name, 1))
    assert model.eval()(images(name, 1)).logits.isfinite().all()


@pytest.mark.parametrize("name", sorted(TINY))
def test_builds_and_runs_on_meta(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
        prediction = model.eval()(torch.zeros(1, 3, *TINY[name].size, dtype=torch.uint8))
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert prediction.logits.is_meta


@pytest.mark.parametrize("name", [name for name in NAMES if TINY[name].millions])
def test_published_parameters(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    count = sum(p.numel() for p in model.parameters()) + model.published_surplus(512, 1024)[0]
    assert round(count / 1e6, 2) == TINY[name].millions


@pytest.mark.parametrize("name", [name for name in NAMES if TINY[name].gigamacs])
def test_published_multiply_accumulates(name: str) -> None:
    with torch.device("meta"):
        model, batch = build(name).eval(), torch.zeros(1, 3, 512, 1024)
    norms = 0

    def count_norm(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal norms
        norms += 2 * output.numel()  # fvcore's price for a batch norm in eval mode

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(count_norm)
    with FlopCounterMode(display=False) as counter:
        model(batch)
    total = counter.get_total_flops() / 2 + norms + model.published_surplus(512, 1024)[1]
    assert total / 1e9 == pytest.approx(TINY[name].gigamacs, rel=0.005)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast(name: str, dtype: torch.dtype) -> None:
    model, batch = tiny(name).eval(), images(name, 1)
    with torch.no_grad():
        exact = model(batch).logits
        with torch.autocast("cpu", dtype=dtype):
            low = model(batch).logits
    assert low.isfinite().all()
    error = (low.float() - exact).norm() / exact.norm()
    assert error < (0.05 if dtype is torch.bfloat16 else 0.01), error
    if dtype is torch.bfloat16:  # what trains on CPUs; half-precision convolutions take seconds there
        with torch.autocast("cpu", dtype=dtype):
            total = loss(model.train()(images(name)))
        total.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def compilations() -> Iterator[Any]:
    """eager: is it one graph? aot_eager: do checkpoints get through? inductor: does the graph compute the same? The
    two together, whose steps are the same for all, once for a convolutional model and once for a transformer."""
    for name in NAMES:
        rows = [("eager", False)] * (not TINY[name].slow_to_compile) + [("aot_eager", True), ("inductor", False)]
        rows += [("inductor", True)] * (name in ("bisenet_r18", "segformer_b0"))
        for backend, checkpointing in rows:
            label = f"{name}-{backend}{'-checkpointed' if checkpointing else ''}"
            yield pytest.param(name, backend, checkpointing, marks=[pytest.mark.slow] * (backend != "eager"), id=label)


@pytest.mark.parametrize(("name", "backend", "checkpointing"), list(compilations()))
def test_compiles_whole(name: str, backend: str, checkpointing: bool) -> None:
    torch.compiler.reset()
    # In float64: a batch norm over two pixels turns float32's last bit into percents.
    eager, batch = tiny(name).double().train().checkpoint_stages(checkpointing), images(name).double()
    compiled = copy.deepcopy(eager)
    forward = torch.compile(compiled, fullgraph=True, backend=backend)
    want, got = eager(batch), forward(batch)
    torch.testing.assert_close(got.logits, want.logits)
    assert got.features.keys() == want.features.keys()
    loss(want).backward()
    loss(got).backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in eager.parameters() if p.grad is not None))
    for (key, mine), theirs in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        if theirs.grad is not None:
            assert float((mine.grad - theirs.grad).norm()) < 1e-6 * norm, key


@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_stages_change_no_bit(name: str) -> None:
    kept, batch = tiny(name).train(), images(name)
    again = copy.deepcopy(kept).checkpoint_stages()
    first, second = kept(batch), again(batch)
    assert torch.equal(first.logits, second.logits)
    loss(first).backward()
    loss(second).backward()
    for (key, mine), theirs in zip(again.named_parameters(), kept.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), key
        assert mine.grad is None or torch.equal(mine.grad, theirs.grad), key
    for (key, mine), theirs in zip(again.named_buffers(), kept.buffers(), strict=True):
        assert torch.equal(mine, theirs), f"{key} saw the batch twice"


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_keeps_less(name: str) -> None:
    def kept_bytes(on: bool) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            prediction = tiny(name).train().checkpoint_stages(on)(images(name))
            assert prediction.logits.requires_grad
        return sum(sizes.values())

    assert kept_bytes(True) < kept_bytes(False)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last(name: str) -> None:
    model, batch = tiny(name).eval(), images(name)
    with torch.no_grad():
        want = model(batch).logits
        got = model.to(memory_format=torch.channels_last)(batch.contiguous(memory_format=torch.channels_last)).logits
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_weights_come_back(name: str, tmp_path: pytest.TempPathFactory) -> None:
    model, other = tiny(name).eval(), tiny(name, seed=1).eval()
    save_weights(model, f"{tmp_path}/w.safetensors")
    load_weights(other, f"{tmp_path}/w.safetensors")
    with torch.no_grad():
        assert torch.equal(model(images(name, 1)).logits, other(images(name, 1)).logits)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_explained(name: str) -> None:
    model = tiny(name)
    with pytest.raises(ValueError, match="the batch of images is empty"):
        model(torch.zeros(0, 3, 64, 64))
    with pytest.raises(ValueError, match=r"uint8 RGB, or floating and normalised; they are torch\.int64"):
        model(torch.zeros(1, 3, 64, 64, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"images must be \[N, 3, H, W\]; they are \[1, 4, 64, 64\]"):
        model(torch.zeros(1, 4, 64, 64))
    small = model.minimum - 1
    with pytest.raises(ValueError, match=f"sides of at least {model.minimum} pixels; the images are {small}x200"):
        model(torch.zeros(1, 3, small, 200))
    assert model.eval()(torch.zeros(1, 3, model.minimum, model.minimum)).logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_norms_can_be_synchronised(name: str) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(tiny(name))
    left = [type(m).__name__ for m in model.modules() if type(m) is nn.BatchNorm2d]
    assert left == []


@pytest.mark.parametrize("pretrained", [True, "weights.pth"])
def test_a_model_without_published_weights_does_not_pass_over_pretrained(pretrained: bool | str) -> None:
    with pytest.raises(ValueError, match="no weights are published for bisenet_mini"):
        build("bisenet_mini", pretrained=pretrained)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'bisenet_mni'; did you mean bisenet_mini"):
        build("bisenet_mni")


@pytest.mark.parametrize(
    ("name", "options", "refused"),
    [
        ("bisenet_mini", {"instance_norms": "whitening"}, "instance_norms"),
        ("deeplabv3plus_mobilenetv2", {"uncertanty": True}, "uncertanty"),
        ("mask2former_r50", {"uncertanty": True}, "uncertanty"),
        ("mask2former_r50", {"backbone": {"depth": [1, 1, 1, 1]}}, "depth"),
    ],
)
def test_an_unknown_option_is_refused(name: str, options: dict[str, Any], refused: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no option '{refused}'"):
        build(name, **options)
