"""Counts against what a pencil finds, and against published ones; and `dgseg profile` from end to end."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dgseg.bench import model_papers
from dgseg.bench.model_peers import peers
from dgseg.bench.models import Row, Settings, judge
from dgseg.bench.timing import Times
from dgseg.cli import main
from dgseg.models import build
from dgseg.models.build import MODELS
from dgseg.models.profiling import Arithmetic, Parameters, arithmetic, parameters

PIXELS = 16 * 12


class Pool(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(x, (2, 2))


@pytest.mark.parametrize(
    ("layer", "products", "beside"),
    [
        (nn.Conv2d(4, 8, 3, padding=1), 8 * 4 * 9 * PIXELS, 0),
        (nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=2), 8 * 2 * 9 * PIXELS // 4, 0),
        (nn.ConvTranspose2d(4, 8, 2, stride=2), 4 * 8 * 4 * PIXELS, 0),
        (nn.Linear(12, 7), 4 * 16 * 12 * 7, 0),
        (nn.BatchNorm2d(4), 0, 2 * 4 * PIXELS),
        (nn.BatchNorm2d(4, affine=False), 0, 4 * PIXELS),
        (nn.InstanceNorm2d(4), 0, 4 * 4 * PIXELS),
        (nn.GroupNorm(2, 4), 0, 5 * 4 * PIXELS),
        (nn.LayerNorm(12), 0, 5 * 4 * PIXELS),
        (nn.Upsample(scale_factor=2, mode="bilinear"), 0, 4 * 4 * 4 * PIXELS),
        (nn.Upsample(scale_factor=2, mode="nearest"), 0, 4 * 4 * PIXELS),
        (nn.AdaptiveAvgPool2d(1), 0, 4 * PIXELS),
        (Pool(), 0, 4 * PIXELS),
        (nn.ReLU(), 0, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_one_layer(layer: nn.Module, products: int, beside: int, device: str) -> None:
    found = arithmetic(layer.eval().to(device), torch.zeros(1, 4, 16, 12, device=device))
    assert (found.flops, found.macs) == (2 * products, products + beside)


def test_norms_that_compute_statistics_cost_more() -> None:
    x = torch.zeros(1, 4, 16, 12)
    assert arithmetic(nn.BatchNorm2d(4).train(), x).macs == 5 * 4 * PIXELS


def test_attention_counts_both_products() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    for device in ("cpu", "meta"):
        found = arithmetic(Attention(), torch.zeros(2, 3, 10, 8, device=device))
        assert found.macs == 2 * (2 * 3 * 10 * 10 * 8)


def test_a_known_network_has_its_known_count() -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        model, x = resnet50().eval(), torch.empty(1, 3, 224, 224)
    assert arithmetic(model, x).macs / 1e9 == pytest.approx(4.11, abs=0.005)
    assert parameters(model).total == 25_557_032


@pytest.mark.parametrize("name", sorted(set(model_papers.TABLES) & set(MODELS)))
def test_published_counts(name: str) -> None:
    row = model_papers.TABLES[name][0]
    height, width = (1024, 1024) if name == "deeplabv3plus_r50" else row.size  # the notes of the table say why
    with torch.device("meta"):
        model, x = build(name).eval(), torch.empty(1, 3, height, width)
    more_parameters, more_macs = model.published_surplus(height, width)
    assert (parameters(model).total + more_parameters) / 1e6 == pytest.approx(row.params_m, rel=0.005)
    assert (arithmetic(model, x).macs + more_macs) / 1e9 == pytest.approx(row.gflops, rel=0.005)


def test_trainable_parameters_and_bytes() -> None:
    layer = nn.BatchNorm2d(4)
    layer.bias.requires_grad_(False)
    found = parameters(layer)
    assert (found.total, found.trainable, found.bytes) == (8, 4, 16 * 4 + 8)


@pytest.mark.parametrize("name", ["segformer_b0", "deeplabv3plus_r50", "vit_small_dinov2"])
def test_equivalents_do_comparable_work(name: str) -> None:
    with torch.device("meta"):
        ours, x = build(name).eval(), torch.empty(1, 3, 128, 256)
        theirs = peers(name)[0].build(19).eval().to("meta")
    assert theirs(x).shape[1] == 19
    assert 0.6 < arithmetic(theirs, x).macs / arithmetic(ours, x).macs < 2


def profile(tmp_path: Path, *arguments: str) -> dict:
    out = tmp_path / "profile.json"
    common = ["profile", "bisenet_mini", "--size", "64x96", "--rounds", "2", "--threads", "1", "--json", str(out)]
    assert main([*common, *arguments]) == 0
    return json.loads(out.read_text())


def test_the_table_the_json_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = tmp_path / "mini.pt2"
    assert main(["export", "bisenet_mini", "--to", "torch-export", "-o", str(exported), "--size", "64x96"]) == 0
    capsys.readouterr()
    picture = tmp_path / "cost.png"
    found = profile(tmp_path, "--fold", "--exported", str(exported), "--plot", str(picture))
    rows = found["results"][0]["rows"]
    assert [row["way"] for row in rows] == ["eager", "folded", "torch-export"]
    for row in (row for row in rows if not row["failed"]):
        assert 0 < row["times"]["least"] <= row["times"]["median"] <= row["times"]["p95"]
    assert rows[0]["arithmetic"]["macs"] > 0
    assert found["versions"]["torch"] == torch.__version__
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "bisenet_mini (folded)" in printed
    assert "fvcore" in printed
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 120


def row(name: str, way: str, seconds: float, macs: int = 100) -> Row:
    times = Times.of([seconds])
    return Row(name, way, Parameters(1, 1, 4), Arithmetic(2 * macs, macs), times)


def test_verdicts() -> None:
    """The compiled row stands beside eager in its own layout too; a peer that does a fraction is not judged."""
    settings = Settings(
        device=torch.device("cpu"),
        size=(64, 96),
        batch=1,
        num_classes=19,
        dtype=torch.float32,
        rounds=1,
        train=False,
        compile=True,
        fold=False,
        channels_last=False,
        peers=True,
        options={},
    )
    rows = [
        row("bisenet_r18", "eager", 3.0),
        row("bisenet_r18", "channels last", 1.9),
        row("bisenet_r18", "compiled", 2.0),
        row("same", "peer", 2.9),
        row("less", "peer", 2.5, 80),
        row("part", "peer", 0.1, 40),
    ]
    verdicts = judge(rows, settings)
    assert [verdict.ok for verdict in verdicts] == [True, False, False, True]
    assert [verdict.reached for verdict in verdicts] == pytest.approx([1.5, 0.95, 2.9 / 3, 2.5 / 3 / 0.8])


def test_a_table_says_the_models_options(capsys: pytest.CaptureFixture[str]) -> None:
    """BlindNet's table and its baseline's would look the same without."""
    common = ["--set", "instance_norms=whitening", "--size", "64x96", "--rounds", "1", "--threads", "1"]
    assert main(["profile", "deeplabv3plus_mobilenetv2", *common]) == 0
    assert "1 rounds in turns, instance_norms=whitening" in capsys.readouterr().out


def test_training_steps(tmp_path: Path) -> None:
    found = profile(tmp_path, "--train", "--dtype", "bfloat16", "--channels-last")
    assert found["profile"]["batch"] == 2
    assert found["results"][0]["rows"][0]["failed"] is None


def test_what_cannot_run_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    common = ["profile", "bisenet_mini", "--size", "64x96", "--rounds", "1", "--threads", "1", "--json", str(out)]
    assert main([*common, "--exported", str(tmp_path / "absent.onnx")]) == 1
    assert json.loads(out.read_text())["results"][0]["rows"][1]["failed"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["no_such_model"],
        ["bisenet_mini", "--size", "64"],
        ["bisenet_mini", "--rounds", "0"],
        ["bisenet_mini", "--set", "x"],
    ],
)
def test_mistakes_end_the_command(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["profile", *arguments])
    assert stopped.value.code not in (0, None)
