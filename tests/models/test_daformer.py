"""DAFormer: parameter counts, published keys, and the head's definition in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.models import build, load_weights
from dgseg.models.heads import DAFormerHead, DeepLabV2Head
from tests.models import published_mit as published
from tests.models.test_mit import randomise

pytestmark = pytest.mark.usefixtures("one_thread")
Weights = dict[str, Tensor]


def test_published_parameters() -> None:
    with torch.device("meta"):
        model = build("daformer_mitb5")
    counts = [sum(p.numel() for p in part.parameters()) for part in (model, model.backbone, model.decode_head)]
    assert counts == [85_155_283, 81_443_008, 3_712_275]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("daformer_mitb5", published.mit("b5") | published.daformer_head("b5")),
        ("daformer_mitb0", published.mit("b0") | published.daformer_head("b0")),
        ("daformer_r101", published.resnet101_v1c() | published.deeplabv2_head()),
    ],
)
def test_every_published_key_has_its_place_and_shape(name: str, keys: published.Shapes) -> None:
    with torch.device("meta"):
        assert {key: tuple(tensor.shape) for key, tensor in build(name).state_dict().items()} == keys


def test_a_training_checkpoint_loads_without_the_copy_beside_the_model(tmp_path) -> None:
    shapes = published.mit("b0") | published.daformer_head("b0")
    state = {f"model.{key}": torch.randn(shape) if shape else torch.tensor(0) for key, shape in shapes.items()}
    copies = {f"imnet_model.{key}": torch.zeros(shape) for key, shape in published.mit("b0").items()}
    torch.save({"meta": {"iter": 40000}, "state_dict": state | copies}, tmp_path / "latest.pth")
    report = load_weights(model := build("daformer_mitb0"), tmp_path / "latest.pth")
    assert sorted(report.ignored) == sorted(copies)
    assert all(torch.equal(tensor, state[f"model.{key}"]) for key, tensor in model.state_dict().items())


def conv_module(weights: Weights, name: str, x: Tensor, **options: int) -> Tensor:
    x = F.conv2d(x, weights[f"{name}.conv.weight"], **options)
    norm = [weights[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(x, *norm, eps=1e-5))


def test_head_is_the_published_formula() -> None:
    torch.manual_seed(0)
    head = DAFormerHead([3, 4, 5, 6], 7, width=8).double().eval()
    randomise(head)
    weights = head.state_dict()
    stages = [torch.randn(2, 3 + i, *size).double() for i, size in enumerate([(20, 26), (10, 13), (5, 7), (3, 4)])]
    levels = []
    for index, stage in enumerate(stages):
        name = f"embed_layers.{index}.proj"
        level = F.conv2d(stage, weights[f"{name}.weight"][..., None, None], weights[f"{name}.bias"])
        levels.append(F.interpolate(level, size=(20, 26), mode="bilinear", align_corners=False))
    x = torch.cat(levels, dim=1)
    branches = [conv_module(weights, "fuse_layer.aspp_modules.0", x)]
    for index, dilation in enumerate((6, 12, 18), 1):
        name = f"fuse_layer.aspp_modules.{index}"
        deep = conv_module(weights, f"{name}.depthwise_conv", x, padding=dilation, dilation=dilation, groups=32)
        branches.append(conv_module(weights, f"{name}.pointwise_conv", deep))
    fused = conv_module(weights, "fuse_layer.bottleneck", torch.cat(branches, 1), padding=1)
    logits, decoder = head(stages)
    torch.testing.assert_close(decoder, fused)
    torch.testing.assert_close(logits, F.conv2d(fused, weights["conv_seg.weight"], weights["conv_seg.bias"]))


def test_decoder_map_is_before_dropout() -> None:
    head = DAFormerHead([3, 4], 5, width=8, dropout=0.5)
    for norm in head.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    stages = [torch.randn(1, 3, 8, 8), torch.randn(1, 4, 4, 4)]
    torch.manual_seed(0)
    first, decoder = head(stages)
    second, again = head(stages)
    assert torch.equal(decoder, again)
    assert not torch.equal(first, second)


def test_deeplabv2_head_sums_its_first_two_rates() -> None:
    torch.manual_seed(0)
    head, last = DeepLabV2Head(6, 3).double(), torch.randn(1, 6, 15, 17).double()
    weights = head.state_dict()
    want = sum(
        F.conv2d(last, weights[f"aspp_modules.{i}.conv.weight"], weights[f"aspp_modules.{i}.conv.bias"],
                 padding=rate, dilation=rate)
        for i, rate in enumerate((6, 12))
    )  # fmt: skip
    torch.testing.assert_close(head([last])[0], want)


def test_resnet_baseline_has_stride_8_in_the_3x3_convolutions_and_contracted_dilations() -> None:
    with torch.device("meta"):
        backbone = build("daformer_r101").backbone
    blocks = {name: module.conv2 for name, module in backbone.named_modules() if hasattr(module, "conv2")}
    assert blocks["layer2.0"].stride == (2, 2)
    assert backbone.layer2[0].conv1.stride == (1, 1)
    dilations = [[conv.dilation[0] for name, conv in blocks.items() if name.startswith(f"layer{i}.")] for i in (3, 4)]
    assert dilations == [[1] + 22 * [2], [2, 4, 4]]
    assert {conv.stride for name, conv in blocks.items() if name.startswith(("layer3", "layer4"))} == {(1, 1)}


@pytest.mark.parametrize("source", ["timm", "mmsegmentation"])
def test_resnet_backbone_loads_imagenet_weights(source: str, tmp_path) -> None:
    shapes = published.resnet101_v1c("") | published.linear("fc", 1000, 2048)
    state = {key: torch.randn(shape) if shape else torch.tensor(0) for key, shape in shapes.items()}
    names = {key: key for key in state}
    if source == "timm":
        names |= {f"stem.{i}.{rest}": f"conv1.{i}.{rest}" for i in range(7) for rest in _rests(state, i)}
        names |= {f"stem.7.{rest}": f"bn1.{rest}" for rest in _rests(state, 7)}
    torch.save({names[key]: tensor for key, tensor in state.items()}, tmp_path / "r101.pth")
    own = build("daformer_r101", pretrained=str(tmp_path / "r101.pth")).backbone.state_dict()
    assert own.keys() == state.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, state[key]) for key, tensor in own.items())


def _rests(state: Weights, index: int) -> list[str]:
    return [key.removeprefix(f"stem.{index}.") for key in state if key.startswith(f"stem.{index}.")]
