"""Published checkpoints: their names load, their shapes fit, and the models compute what the papers' code computes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from dgseg.models import build, load_weights
from dgseg.models.backbones.light import build_light
from dgseg.models.backbones.resnet import build_resnet
from dgseg.models.weights import WeightsError
from dgseg.models.weights.loading import formats
from tests.models import published
from tests.models.harness import images, tiny
from tests.models.published import Oracle, Shapes, filled

LAYERS = (1, 2, 2, 2)


def on_meta(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return build(name, 19, **options)


def torchvision_shapes(name: str) -> Shapes:
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(weights=None).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


def robustnet_shufflenet(stem_norm: bool) -> Shapes:
    """The stem's batch norm stays in the file even where an instance norm replaces it."""
    names = {"conv1.": "layer0.layer.0.", "stage2.": "layer1.", "stage3.": "layer2.", "stage4.": "layer3."}
    names["conv5."] = "layer4.layer."
    trunk = {
        name + key.removeprefix(old): shape
        for key, shape in torchvision_shapes("shufflenet_v2_x1_0").items()
        for old, name in names.items()
        if key.startswith(old)
    }
    return trunk | published.deeplabv3plus_head(116, 464, 1024, 19)


def robustnet_mobilenet() -> Shapes:
    starts = {0: "layer0.0", 1: "layer0.1", 18: "layer4.0"}
    starts |= {2 + i: f"layer1.{i}" for i in range(5)} | {7 + i: f"layer2.{i}" for i in range(4)}
    starts |= {11 + i: f"layer3.{i}" for i in range(7)}
    trunk = {}
    for key, shape in torchvision_shapes("mobilenet_v2").items():
        if key.startswith("features."):
            _, block, rest = key.split(".", 2)
            trunk[f"{starts[int(block)]}.{rest}"] = shape
    return trunk | published.deeplabv3plus_head(32, 320, 1280, 19)


R50 = published.bottlenecks((3, 4, 6, 3)) | published.deeplabv3plus_head(256, 1024, 2048, 19)
AFFINE = {
    key: (channels,)
    for name, channels in (("layer1.2", 256), ("layer2.3", 512))
    for key in (f"{name}.instance_norm_layer.weight", f"{name}.instance_norm_layer.bias")
}
STEM = {"layer0.0.weight": (64, 3, 7, 7), "layer0.1.weight": (64,), "layer0.1.bias": (64,)}


@pytest.mark.parametrize(
    ("shapes", "name", "options"),
    [
        (published.adaptsegnet((3, 4, 23, 3), 19), "deeplabv2_r101", {"multi_level": True}),
        (published.blindnet((3, 4, 6, 3), 19), "deeplabv3plus_r50", {"instance_norms": "whitening"}),
        (R50 | published.norm("layer0.1", 64) | STEM, "deeplabv3plus_r50", {}),
        (R50 | STEM | AFFINE, "deeplabv3plus_r50", {"instance_norms": "ibn"}),
        (robustnet_shufflenet(False), "deeplabv3plus_shufflenetv2", {}),
        (robustnet_shufflenet(True), "deeplabv3plus_shufflenetv2", {"instance_norms": "whitening"}),
        (robustnet_mobilenet(), "deeplabv3plus_mobilenetv2", {"instance_norms": "whitening"}),
    ],
    ids=["AdaptSegNet", "BlindNet", "RobustNet", "IBN", "ShuffleNet", "ShuffleNet whitening", "MobileNet"],
)
def test_every_published_name_and_shape_is_the_models(shapes: Shapes, name: str, options: dict[str, object]) -> None:
    model = on_meta(name, **options)
    (fitting,) = [each for each in formats() if each.recognises(set(shapes))]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    state = {key: tensor for key, tensor in state.items() if not key.startswith(fitting.ignores or "\0")}
    got = {key: tuple(tensor.shape) for key, tensor in fitting.translate(state, model).items()}
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if "num_batches" not in key}
    assert got == own


@pytest.mark.parametrize("branches", [2, 4])
def test_adaptsegnet_gives_the_published_logits(tmp_path: Path, branches: int) -> None:
    state = filled(published.adaptsegnet(LAYERS, 5))
    torch.save(state, tmp_path / "gta.pth", _use_new_zipfile_serialization=False)
    model = build("deeplabv2_r101", 5, layers=LAYERS, multi_level=True, branches=branches, bgr=True).double().eval()
    assert load_weights(model, tmp_path / "gta.pth").format == "AdaptSegNet DeepLabV2"
    pixels = torch.randint(0, 256, (1, 3, 49, 58), dtype=torch.uint8)
    bgr = pixels.flip(1).double() - torch.tensor([104.00698793, 116.66876762, 122.67891434]).double().view(3, 1, 1)
    want = Oracle(state).adaptsegnet(bgr, LAYERS, branches)
    with torch.no_grad():
        got = model(model.normalise(pixels).double()).logits
    assert want.abs().mean() > 0.1  # alive
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)  # the mean is taken off in float32


def test_the_sum_has_all_four_branches_unless_told() -> None:
    classifier = build("deeplabv2_r101", 5, layers=(1, 1, 1, 1)).classifier.double()
    x = torch.randn(1, 2048, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(classifier(x), sum(conv(x) for conv in classifier.conv2d_list))


def test_blindnet_gives_the_published_logits_and_maps(tmp_path: Path) -> None:
    state = filled(published.blindnet(LAYERS, 5))
    wrapped = {"epoch": 1, "state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}
    torch.save(wrapped, tmp_path / "r50.pth")
    model = build("deeplabv3plus_r50", 5, layers=LAYERS, instance_norms="whitening").double().eval()
    report = load_weights(model, tmp_path / "r50.pth")
    assert len(report.ignored) == 3
    x = torch.randn(1, 3, 65, 98, dtype=torch.float64)
    want, maps = Oracle(state).blindnet(x, LAYERS)
    with torch.no_grad():
        got = model(x)
    assert want.abs().mean() > 0.1
    torch.testing.assert_close(got.logits, want)
    for position, each in enumerate(maps):
        torch.testing.assert_close(got.features[f"norm{position}"], each)
    assert got.features["stage4"].shape[1:] == (2048, 5, 7)
    assert (got.features["concat"].shape[1], got.features["pre_classifier"].shape[1]) == (304, 256)


def test_bisenet_classifies_before_upsampling_what_the_published_code_classifies_after() -> None:
    model = tiny("bisenet_r18").double().train()
    x = images("bisenet_r18").double()
    prediction = model(x)
    up = F.interpolate(prediction.features["decoder"], scale_factor=8, mode="bilinear")
    torch.testing.assert_close(
        F.interpolate(prediction.logits, scale_factor=8, mode="bilinear"), F.conv2d(up, *model.conv.parameters())
    )
    stage3, spatial = prediction.features["stage3"], prediction.features["spatial"]
    module = model.attention_refinement_module1
    mean = stage3.mean((2, 3), keepdim=True)
    context = stage3 * module.bn(module.conv(mean)).sigmoid()
    context = F.interpolate(context, size=spatial.shape[2:], mode="bilinear")
    torch.testing.assert_close(prediction.aux[0].logits, model.supervision1(context))
    assert [aux.weight for aux in prediction.aux] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["shufflenet_v2_x1_0", "mobilenet_v2", "resnet18", "resnet50"])
def test_a_torchvision_classifier_becomes_a_backbone(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = getattr(torchvision.models, name)(weights=None).eval()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    build_: dict[str, object] = {
        "shufflenet_v2_x1_0": lambda file: build_light("shufflenetv2", file),
        "mobilenet_v2": lambda file: build_light("mobilenetv2", file),
        "resnet18": lambda file: build_resnet(18, file),
        "resnet50": lambda file: build_resnet(50, file),
    }
    trunk = build_[name](str(tmp_path / "w.pth")).eval()  # type: ignore[operator]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        y: Tensor = trunk.layer0(x)
        for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            y = layer(y)
        pooled = y.mean((2, 3))
        head = source.classifier if name == "mobilenet_v2" else source.fc
        torch.testing.assert_close(head(pooled), source(x))


def test_a_backbone_file_alone_leaves_the_head_missing(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    with pytest.raises(WeightsError, match=r"(?s)torchvision ResNet.*missing: spatial_path"):
        load_weights(tiny("bisenet_r18"), tmp_path / "r18.pth")
    report = load_weights(tiny("bisenet_r18"), tmp_path / "r18.pth", strict=False)
    assert report.ignored == ["fc.weight", "fc.bias"]
    assert not report.unexpected


def test_a_checkpoint_of_another_architecture_says_which_it_looks_like(tmp_path: Path) -> None:
    torch.save(filled(published.adaptsegnet(LAYERS, 19)), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no checkpoint of bisenet_mini: it looks like AdaptSegNet DeepLabV2"):
        load_weights(build("bisenet_mini"), tmp_path / "w.pth")
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="looks like torchvision MobileNetV2"):
        build("bisenet_r18", pretrained=str(tmp_path / "m.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instance_norms": "bn"}, "instance_norms is 'bn'"),
        ({"instance_norms": "ibn", "positions": (0, 5)}, "takes some of"),
        ({"instance_norms": "ibn", "positions": ()}, "takes some of"),
        ({"output_stride": 4}, "8 or 16"),
    ],
)
@pytest.mark.parametrize("trunk", ["r50", "shufflenetv2", "mobilenetv2"])
def test_wrong_options_are_explained(trunk: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_meta(f"deeplabv3plus_{trunk}", **options)


@pytest.mark.parametrize("trunk", ["r50", "shufflenetv2", "mobilenetv2"])
def test_output_stride_8_doubles_the_last_maps(trunk: str) -> None:
    model = on_meta(f"deeplabv3plus_{trunk}", output_stride=8).eval()
    features = model(torch.zeros(1, 3, 128, 96, device="meta")).features
    assert features["stage3"].shape[2:] == features["stage4"].shape[2:] == (16, 12)
