"""The plain head over DINOv2 and DINOv3: any size and patch, and what of the transformer is trained."""

from typing import Any

import pytest
import torch

from dgseg.models import build, load_weights, save_weights
from dgseg.models.vit import VisionTransformer
from dgseg.models.weights import WeightsError
from tests.models.harness import CLASSES
from tests.models.test_weights import Bomb

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3, "rank": 2, "dropout": 0.0, "decoder": 16}
BACKBONES = ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"]


def small(backbone: str, **options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    patch = 14 if "14" in backbone else 16
    return VisionTransformer(CLASSES, backbone, **({"img_size": 4 * patch} | SMALL | options))


@pytest.mark.parametrize(
    ("name", "millions"),  # of the transformer alone, as its papers round them
    [
        ("vit_small_dinov2", 22.1),
        ("vit_base_dinov2", 86.6),
        ("vit_large_dinov2", 304.4),
        ("vit_small_dinov3", 21.6),
        ("vit_base_dinov3", 85.7),
        ("vit_large_dinov3", 303.1),
    ],
)
def test_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build(name, adapt="frozen")
    assert sum(p.numel() for p in model.backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_image_size(backbone: str) -> None:
    model = small(backbone).eval()
    patch = model.multiple
    for height, width in [(patch, patch), (3 * patch, 5 * patch), (3 * patch - 1, 4 * patch + 1)]:
        logits = model(torch.randn(1, 3, height, width)).logits
        assert logits.shape[-2:] == (-(-height // patch), -(-width // patch))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_another_patch_size(backbone: str) -> None:
    model = small(backbone, patch_size=8, img_size=32).eval()
    assert model.multiple == 8
    assert model(torch.randn(1, 3, 32, 48)).logits.shape == (1, CLASSES, 4, 6)


def test_registers_are_tokens_and_no_pixels() -> None:
    plain, registers = (
        build("vit_small_dinov2", CLASSES, registers=on, img_size=56, **SMALL).eval() for on in (False, True)
    )
    assert (plain.backbone.num_prefix_tokens, registers.backbone.num_prefix_tokens) == (1, 5)
    assert registers(torch.randn(1, 3, 56, 84)).logits.shape == (1, CLASSES, 4, 6)


def test_stages_are_spread_over_the_depth() -> None:
    model = small("vit_small_patch16_dinov3", depth=4).eval()
    assert model.taken == [0, 1, 2, 3]
    assert list(model(torch.randn(1, 3, 32, 32)).features) == [
        *(f"stage{i}" for i in range(1, 5)),
        "decoder",
        "pre_classifier",
    ]


@pytest.mark.parametrize("adapt", ["frozen", "lora", "full"])
def test_what_is_trained(adapt: str) -> None:
    model = small("vit_small_patch14_dinov2", adapt=adapt).train()
    model(torch.randn(2, 3, 56, 56)).logits.square().mean().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    backbone = {name for name in trained if name.startswith("backbone.")}
    assert {name for name in trained if not name.startswith("backbone.")} == {
        "fuse.0.weight",
        "fuse.1.weight",
        "fuse.1.bias",
        "classifier.weight",
        "classifier.bias",
    }
    if adapt == "frozen":
        assert not backbone
    elif adapt == "lora":
        assert {name.rpartition(".")[2] for name in backbone} == {"lora_a", "lora_b"}
        assert len(backbone) == 2 * 4 * 2  # two matrices at four layers of two blocks
    else:
        assert len(backbone) > 20


def test_adapters_reach_attention_that_takes_the_weight_itself() -> None:
    """timm's attention with separate biases calls no forward of `qkv` unless told to."""
    model = small("vit_small_patch16_dinov3_qkvb").eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model(x).logits
        for name, parameter in model.named_parameters():
            if name.endswith("attn.qkv.lora_b"):
                parameter.normal_()
        assert not torch.equal(before, model(x).logits)


def test_local_weights_are_read_and_resampled(tmp_path) -> None:
    source = small("vit_small_patch14_dinov2", adapt="frozen")
    torch.save(source.backbone.state_dict(), tmp_path / "vit.pth")
    same = small("vit_small_patch14_dinov2", adapt="frozen", pretrained=str(tmp_path / "vit.pth"))
    for key, tensor in same.backbone.state_dict().items():
        assert torch.equal(tensor, source.backbone.state_dict()[key]), key
    other = small("vit_small_patch14_dinov2", pretrained=str(tmp_path / "vit.pth"), patch_size=16, img_size=96)
    assert other.backbone.pos_embed.shape[1] == 1 + 36


@pytest.mark.parametrize("hostile", [True, False], ids=["hostile", "stranger"])
def test_files_are_read_by_our_reader(tmp_path, hostile: bool) -> None:
    """One that executes something, and one of another model."""
    if hostile:
        torch.save({"a": Bomb()}, tmp_path / "w")
    else:
        save_weights(build("bisenet_mini", 5, width=8), tmp_path / "w.safetensors")
        (tmp_path / "w.safetensors").rename(tmp_path / "w")
    message = "refused.*nothing in it was executed" if hostile else "holds no weights of.*looks like bisenet_mini"
    with pytest.raises(WeightsError, match=message):
        small("vit_small_patch14_dinov2", pretrained=str(tmp_path / "w"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_model_on_meta_becomes_whole_from_its_file(backbone: str, tmp_path) -> None:
    model = small(backbone).eval()
    save_weights(model, tmp_path / "w.safetensors")
    with torch.device("meta"):
        empty = small(backbone).eval()
    load_weights(empty, tmp_path / "w.safetensors")
    x = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(empty(x).logits, model(x).logits)


def test_features_are_from_before_dropout() -> None:
    model = small("vit_small_patch16_dinov3", dropout=0.5).train()
    model.fuse.eval()
    x = torch.randn(1, 3, 32, 32)
    first, second = model(x), model(x)
    assert torch.equal(first.features["pre_classifier"], second.features["pre_classifier"])
    assert not torch.equal(first.logits, second.logits)


def test_mistakes_are_explained() -> None:
    with pytest.raises(ValueError, match="'frozen', 'lora' or 'full'"):
        small("vit_small_patch14_dinov2", adapt="half")
    with pytest.raises(ValueError, match="no weights file at nowhere"):
        small("vit_small_patch14_dinov2", pretrained="nowhere.pth")
    with pytest.raises(ValueError, match="rank must be at least 1"):
        small("vit_small_patch14_dinov2", rank=0)
