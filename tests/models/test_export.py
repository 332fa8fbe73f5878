"""Exported files, run by the runtimes that they are for."""

from pathlib import Path

import onnxruntime
import pytest
import torch

from dgseg.cli import main
from dgseg.models import save_weights
from dgseg.models.export import TOLERANCE, example, export, runner
from tests.models.harness import TINY, tiny


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
    done = export(model, tmp_path / "m.pt2", "torch-export", height=64, width=64)
    assert not done.ok


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
    assert printed.rstrip().endswith("OK")
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
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        export(model, tmp_path / "m.pt2", "onnx", height=64, width=64)
    with pytest.raises(SystemExit, match="no weights file"):
        main(["export", "bisenet_mini", "--to", "onnx", "-o", str(tmp_path / "m.onnx"), "--weights", "absent.pt"])
