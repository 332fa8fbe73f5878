"""Exported files, run by the runtimes that they are for."""

import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from dgseg.cli import main
from dgseg.models import build, save_weights
from dgseg.models.export import TOLERANCE, Exported, example, export, runner
from tests.models.harness import TINY, tiny

SMALL = ["--size", "64x96"]


@pytest.mark.parametrize(
    "name",
    ["bisenet_mini", "vit_small_dinov2", "vit_small_dinov3", pytest.param("mask2former_r50", marks=pytest.mark.slow)],
)
def test_onnx_runtime_agrees(name: str, tmp_path: Path) -> None:
    model = tiny(name).eval()
    side = 4 * model.multiple
    done = export(model, tmp_path / "m.onnx", "onnx", height=side, width=side, input="float32")
    assert done.difference <= TOLERANCE


@pytest.mark.parametrize(
    ("to", "output"),
    [
        ("onnx", "labels"),
        ("torch-export", "logits"),
        pytest.param("onnx", "logits", marks=pytest.mark.slow),
        pytest.param("torch-export", "labels", marks=pytest.mark.slow),
    ],
)
def test_any_size(to: str, output: str, tmp_path: Path) -> None:
    model = tiny("bisenet_mini").eval()
    path = tmp_path / ("m.onnx" if to == "onnx" else "m.pt2")
    done = export(model, path, to, height=64, width=96, dynamic=True, output=output)
    assert done.ok
    assert done.sizes == ["1x64x96", "2x96x160"]
    images = example(model, 3, 128, 64, "uint8", seed=9)
    found = runner(path, 1)(images)
    with torch.no_grad():
        logits = model(images).logits
    if output == "logits":
        torch.testing.assert_close(found, logits, rtol=0, atol=TOLERANCE)
    else:
        assert found.dtype == torch.uint8
        expected = torch.nn.functional.interpolate(logits, (128, 64), mode="bilinear").argmax(1)
        assert (found == expected).float().mean() > 0.999


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("segformer_b0", ["1x64x64", "2x65x66"]),
        pytest.param("daformer_mitb0", ["1x64x64", "2x65x66"], marks=pytest.mark.slow),
        pytest.param("hrda_mitb0", ["1x128x128", "2x144x160"], marks=pytest.mark.slow),
        pytest.param("hrda_r101", ["1x128x128", "2x160x192"], marks=pytest.mark.slow),
    ],
)
def test_transformers_and_hrda_take_any_size(name: str, sizes: list[str], tmp_path: Path) -> None:
    side = int(sizes[0].split("x")[1])
    done = export(tiny(name).eval(), tmp_path / "m.pt2", "torch-export", height=side, width=side, dynamic=True)
    assert done.ok
    assert done.sizes == sizes


@pytest.mark.parametrize("name", ["vit_small_dinov3", pytest.param("mask2former_r50", marks=pytest.mark.slow)])
def test_models_for_one_size_say_so(name: str, tmp_path: Path) -> None:
    """transformers' reference points and timm's rotary positions are made for the size that is traced."""
    model = tiny(name).eval()
    side = 4 * model.multiple
    with pytest.raises(ValueError, match="cannot be exported for any size"):
        export(model, tmp_path / "m.pt2", "torch-export", height=side, width=side, dynamic=True)
    assert not (tmp_path / "m.pt2").exists()


def test_a_file_that_differs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: a model that draws its logits anew never equals its file."""
    model = tiny("bisenet_mini").eval()
    predict = model.predict

    def noisy(images: torch.Tensor, *, seed: int, step: int):
        found = predict(images, seed=seed, step=step)
        return found._replace(logits=found.logits + torch.rand_like(found.logits))

    monkeypatch.setattr(model, "predict", noisy)
    path = tmp_path / "m.pt2"
    path.write_bytes(b"an earlier file")
    done = export(model, path, "torch-export", height=64, width=64)
    assert not done.ok
    assert path.read_bytes() == b"an earlier file"
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"


def test_what_is_accepted() -> None:
    """1e-4 where logits are as training leaves them; the same share of larger ones; never NaN."""
    assert Exported(Path(), [], 1e-4, 10.0).ok
    assert not Exported(Path(), [], 1.1e-4, 10.0).ok
    assert Exported(Path(), [], 1e-3, 100.0).ok
    assert not Exported(Path(), [], float("nan"), 1.0).ok


def test_the_command_exports_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = TINY["bisenet_mini"].options
    model = tiny("bisenet_mini", seed=5).eval()
    save_weights(model, tmp_path / "w.safetensors")
    path = tmp_path / "m.onnx"
    arguments = [f"--set={key}={value}" for key, value in options.items()]
    arguments += ["--num-classes", "5", "--weights", str(tmp_path / "w.safetensors"), "--size", "64x96"]
    assert main(["export", "bisenet_mini", "--to", "onnx", "-o", str(path), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "folded" in printed
    assert "accepted 1.0e-04: OK" in printed
    images = example(model, 1, 64, 96, "uint8")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(images).logits, rtol=0, atol=TOLERANCE)


def test_mistakes_are_explained(tmp_path: Path) -> None:
    model = tiny("bisenet_mini")
    with pytest.raises(ValueError, match="eval mode"):
        export(model.train(), tmp_path / "m.onnx", "onnx", height=64, width=64)
    model.eval()
    with pytest.raises(ValueError, match="multiples of 32"):
        export(model, tmp_path / "m.onnx", "onnx", height=65, width=64)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        export(model, tmp_path / "m.onnx", "onnx", height=0, width=64)
    with pytest.raises(ValueError, match="holds 256 classes"):
        export(build("bisenet_mini", 257).eval(), tmp_path / "m.onnx", "onnx", height=64, width=64, output="labels")
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        export(model, tmp_path / "m.pt2", "onnx", height=64, width=64)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="dgseg export"):
        main(["export", "bisenet_mini", "--to", "torch-export", "-o", str(tmp_path / "file" / "m.pt2"), *SMALL])
    with pytest.raises(SystemExit, match="no weights file"):
        main(["export", "bisenet_mini", "--to", "onnx", "-o", str(tmp_path / "m.onnx"), "--weights", "absent.pt"])


def test_libraries_that_onnx_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"ONNX needs onnxscript: pip install"):
        export(tiny("bisenet_mini").eval(), tmp_path / "m.onnx", "onnx", height=64, width=96)
