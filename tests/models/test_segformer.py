"""SegFormer: the paper's sizes, the published keys, and transformers' numbers."""

import pytest
import torch
from torch import nn

from dgseg.models import build, load_weights
from dgseg.models.backbones.mit import MIT_SIZES
from dgseg.models.heads import FuseLevels
from tests.models import published_mit as published
from tests.models.test_mit import narrow, norms, randomise

pytestmark = pytest.mark.usefixtures("one_thread")

# With ADE20K's 150 classes, as the paper counts, in millions.
PAPER = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}


@pytest.mark.parametrize("size", PAPER)
def test_parameters_of_the_paper(size: str) -> None:
    with torch.device("meta"):
        model = build(f"segformer_{size}", 150)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == PAPER[size]


@pytest.mark.parametrize("size", sorted(MIT_SIZES))
def test_every_published_key_has_its_place_and_shape(size: str) -> None:
    keys = published.mit(size) | published.segformer_head(size)
    with torch.device("meta"):
        own = {key: tuple(tensor.shape) for key, tensor in build(f"segformer_{size}").state_dict().items()}
    assert own == {key: shape for key, shape in keys.items() if "conv_seg" not in key}


@pytest.mark.parametrize("pretrain", [False, True], ids=["segmentation", "imagenet"])
def test_published_checkpoints_load(pretrain: bool, tmp_path) -> None:
    shapes = published.mit("b0", "" if pretrain else "backbone.")
    shapes |= published.linear("head", 1000, 256) if pretrain else published.segformer_head("b0")
    state = {key: torch.randn(shape) if shape else torch.tensor(0) for key, shape in shapes.items()}
    torch.save(state if pretrain else {"meta": {}, "state_dict": state}, tmp_path / "b0.pth")
    if pretrain:
        model = build("segformer_b0", pretrained=str(tmp_path / "b0.pth"))
        own = {key.removeprefix("backbone."): value for key, value in model.state_dict().items()}
    else:
        report = load_weights(model := build("segformer_b0"), tmp_path / "b0.pth")
        assert report.format == "SegFormer"
        assert report.ignored == ["decode_head.conv_seg.weight", "decode_head.conv_seg.bias"]
        own = model.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in state.items() if key in own)
    assert len(state.keys() - own.keys()) == 2


def test_equals_transformers_from_its_own_file(tmp_path) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    shape = narrow("b0")
    config = SegformerConfig(
        hidden_sizes=list(shape.widths),
        depths=list(shape.depths),
        num_attention_heads=list(shape.heads),
        decoder_hidden_size=24,
        num_labels=5,
    )
    theirs = SegformerForSemanticSegmentation(config).double().eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    ours = build("segformer_b0", 5, mit=shape, width=24).double().eval()
    report = load_weights(ours, tmp_path / "model.safetensors")
    assert report.format == "SegFormer (transformers)"
    for _, norm in [*norms(ours), *norms(theirs)]:
        norm.eps = 1e-5
    images = torch.randn(2, 3, 70, 100, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, theirs(images).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("last_first", [False, True])
def test_fusing_before_upsampling_is_the_convolution_of_the_concatenation(last_first: bool) -> None:
    torch.manual_seed(0)
    fuse = FuseLevels(6, last_first=last_first).double()
    levels = [torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True) for size in [(9, 14), (5, 7), (3, 4)]]
    levels.append(torch.randn(2, 6, 1, 2, dtype=torch.float64, requires_grad=True))
    large = [nn.functional.interpolate(level, size=(9, 14), mode="bilinear") for level in levels]
    want = nn.functional.conv2d(torch.cat(large[::-1] if last_first else large, 1), fuse.weight)
    got = fuse(*levels)
    torch.testing.assert_close(got, want)
    weights = torch.randn_like(want)
    inputs = [*levels, fuse.weight]
    grads = (torch.autograd.grad((out * weights).sum(), inputs) for out in (got, want))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_pretrained_without_a_network_names_the_way_out(monkeypatch, tmp_path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"nvidia/mit-b0.*pretrained=\"/path/to/file\""):
        build("segformer_b0", pretrained=True)


def test_the_profile_can_add_what_the_head_saves() -> None:
    with torch.device("meta"):
        model, images = build("segformer_b0").eval(), torch.zeros(1, 3, 512, 512)

    def macs(module: nn.Module, *inputs: torch.Tensor) -> int:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            module(*inputs)
        return counter.get_total_flops() // 2

    levels = [torch.zeros(1, 256, 128 // 2**i, 128 // 2**i, device="meta") for i in range(4)]
    concatenated = 16384 * 1024 * 256
    fuse = model.decode_head.linear_fuse.conv
    assert model.published_surplus(512, 512) == (0, concatenated - macs(fuse, *levels))
    # The paper gives 8.4 GFLOPs with 150 classes (0.6 of them in the classifier) and nothing for attention's products.
    assert macs(model, images) < 8.4e9
