"""load_weights and save_weights: files that fit, that do not, and that should never be opened."""

import argparse
import json
import os
import pickle
import time
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from dgseg.cli.model_arguments import add_weights_arguments, from_weights
from dgseg.models import build, load_weights, save_weights
from dgseg.models.backbones import pretrained_backbone
from dgseg.models.weights import WeightsError
from dgseg.models.weights.reading import read

TINY = {"width": 8, "decoder": 16}


def tiny(num_classes: int = 5, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("bisenet_mini", num_classes, **TINY)


@pytest.fixture(autouse=True)
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks what a file looks like builds all models: here only those that the tests need."""
    names = import_module("dgseg.models.build")
    few = ("bisenet_mini", "daformer_mitb0", "deeplabv3plus_mobilenetv2", "segformer_b0", "segformer_b1")
    monkeypatch.setattr(names, "MODELS", {name: names.MODELS[name] for name in few})


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_own_weights_come_back_bit_for_bit_also_into_a_meta_model(tmp_path: Path) -> None:
    model = tiny().to(memory_format=torch.channels_last)
    save_weights(model, tmp_path / "a" / "weights.safetensors")
    assert os.listdir(tmp_path / "a") == ["weights.safetensors"]
    with torch.device("meta"):
        empty = build("bisenet_mini", 5, **TINY)
    for other in (tiny(seed=1), empty):
        report = load_weights(other, tmp_path / "a" / "weights.safetensors")
        assert equal(model, other)
        assert sorted(report.loaded) == sorted(model.state_dict())
        assert str(report).endswith("0 reshaped, 0 missing, 0 unexpected, 0 mismatched, 0 ignored")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_wrapped_and_prefixed_checkpoints(tmp_path: Path, legacy: bool) -> None:
    model = tiny()
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    wrapped = {"epoch": 3, "mean_iu": np.float64(0.5), "state_dict": state}
    torch.save(wrapped, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    other = tiny(seed=1)
    load_weights(other, tmp_path / "w.pth")
    assert equal(model, other)


def test_copies_beside_the_model_are_ignored_and_named(tmp_path: Path) -> None:
    model = tiny()
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save(state | {"imnet_model.backbone.x": torch.zeros(1)}, tmp_path / "w.pth")
    assert load_weights(tiny(seed=1), tmp_path / "w.pth").ignored == ["imnet_model.backbone.x"]


def test_a_wrapper_around_the_model_and_its_copies_comes_off_first(tmp_path: Path) -> None:
    model, other = tiny(), tiny(seed=1)
    state = {f"module.model.{key}": value for key, value in model.state_dict().items()}
    torch.save(state | {"module.imnet_model.x": torch.zeros(1)}, tmp_path / "w.pth")
    assert load_weights(other, tmp_path / "w.pth").ignored == ["imnet_model.x"]
    assert equal(model, other)


def test_a_wrong_suffix_is_looked_through(tmp_path: Path) -> None:
    model, other = tiny(), tiny(seed=1)
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, (tmp_path / "w.safetensors").rename(tmp_path / "w.pth"))
    assert equal(model, other)


def test_half_precision_optimiser_states_and_any_order_of_keys_load(tmp_path: Path) -> None:
    model, other = tiny(), tiny(seed=1)
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({"optimizer": optimiser, "model": dict(reversed(state.items()))}, tmp_path / "w.pth")
    load_weights(other, tmp_path / "w.pth")
    assert all(torch.equal(value, state[key].to(value.dtype)) for key, value in other.state_dict().items())


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """Its bytes, mapped into memory, would pass for weights."""
    torch.save(tiny().state_dict(), tmp_path / "w.pth")
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(tmp_path / "w.pth") as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    with pytest.raises(WeightsError, match="compressed archive"):
        load_weights(tiny(), packed)


def test_what_does_not_fit_is_an_error_and_without_strict_a_report(tmp_path: Path) -> None:
    state = tiny().state_dict()
    del state["stem.0.weight"]
    state["stranger"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"(?s)missing: stem.0.weight.*unexpected: stranger"):
        load_weights(tiny(), tmp_path / "w.pth")
    report = load_weights(tiny(), tmp_path / "w.pth", strict=False)
    assert (report.missing, report.unexpected) == (["stem.0.weight"], ["stranger"])


def test_another_number_of_classes_is_an_error_that_says_so(tmp_path: Path) -> None:
    save_weights(tiny(7), tmp_path / "w.safetensors")
    model, before = tiny(5), tiny(5)
    with pytest.raises(WeightsError, match=r"(?s)classifier.weight: \[7, 16, 1, 1\] -> \[5, 16, 1, 1\].*num_classes"):
        load_weights(model, tmp_path / "w.safetensors")
    assert equal(model, before)  # an error changes nothing


@pytest.mark.parametrize("told", [False, True], ids=["by names and shapes", "by the file itself"])
@pytest.mark.parametrize("other", ["daformer_mitb0", "segformer_b1"], ids=["another head", "other shapes"])
def test_a_relative_with_the_same_names_is_told_apart(tmp_path: Path, other: str, told: bool) -> None:
    file = tmp_path / ("w.safetensors" if told else "w.pth")
    source = build("segformer_b0", 7)
    save_weights(source, file) if told else torch.save(source.state_dict(), file)
    with torch.device("meta"):
        model = build(other)
    with pytest.raises(WeightsError, match=f"it looks like segformer_b0, and the model is {other}") as caught:
        load_weights(model, file)
    assert "num_classes" not in str(caught.value)


def test_linear_and_pointwise_convolution_are_reshaped_and_reported(tmp_path: Path) -> None:
    linear, conv = nn.Linear(4, 3), nn.Conv2d(4, 3, 1)
    torch.save(linear.state_dict(), tmp_path / "w.pth")
    assert load_weights(conv, tmp_path / "w.pth").reshaped == ["weight"]
    assert torch.equal(conv.weight.flatten(1), linear.weight)


def test_batch_norms_from_before_the_counter_load(tmp_path: Path) -> None:
    old = {key: value for key, value in tiny().state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "w.pth")
    assert load_weights(tiny(seed=1), tmp_path / "w.pth").missing == []


def test_a_stranger_is_named(tmp_path: Path) -> None:
    save_weights(tiny(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="no checkpoint of Linear: it looks like bisenet_mini"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    torch.save({"a.b": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="it looks like none that is known; it holds a"):
        load_weights(tiny(), tmp_path / "w.pth")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "plain pickle"])
def test_a_malicious_file_is_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": tiny().state_dict(), "extra": Bomb()}
    if how == "torch":
        torch.save(content, "w.pth")
    else:
        Path("w.pth").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"refused.*nothing in it was executed") as caught:
        load_weights(tiny(), "w.pth")
    assert "weights_only" not in str(caught.value)
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, {}, torch.zeros(2)], ids=lambda c: type(c).__name__)
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="is refused"):
        load_weights(tiny(), tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 5, 200, -100])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(tiny().state_dict(), path)
    else:
        save_weights(tiny(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"damaged or truncated|refused"):
        load_weights(tiny(), path)


def test_a_missing_file_and_a_wrong_suffix(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no weights file at"):
        load_weights(tiny(), tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"saved as .safetensors"):
        save_weights(tiny(), tmp_path / "w.pth")


@pytest.mark.parametrize("source", ["http://127.0.0.1:9/resnet18-0.pth", "hf:nobody/nothing/model.safetensors"])
def test_without_network_the_error_names_the_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}"
    )
    begun = time.monotonic()
    with pytest.raises(ValueError, match="cannot be reached") as caught:
        pretrained_backbone(nn.Linear(2, 2), True, source)
    assert time.monotonic() - begun < 10
    assert ("resnet18-0.pth" if source.startswith("http") else "hf download nobody/nothing") in str(caught.value)
    assert str(tmp_path) in str(caught.value)  # where to put it


def test_a_backbone_takes_a_local_file(tmp_path: Path) -> None:
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    pretrained_backbone(target, str(tmp_path / "w.pth"), "https://nowhere/w.pth")
    assert torch.equal(source.weight, target.weight)


def test_weights_remember_what_their_model_was_built_with(tmp_path: Path) -> None:
    """Affine-free instance norms have no weights: without the option another network would be loaded in silence."""
    model = build("deeplabv3plus_mobilenetv2", instance_norms="whitening")
    save_weights(model, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["architecture"] == "deeplabv3plus_mobilenetv2"
    assert json.loads(metadata["options"]) == {"instance_norms": "whitening"}
    parser = argparse.ArgumentParser()
    add_weights_arguments(parser)
    again = from_weights(parser.parse_args(["--weights", str(tmp_path / "w.safetensors")]))
    assert dict(again.options) == {"instance_norms": "whitening"}
    wanted = ["--weights", str(tmp_path / "w.safetensors"), "--set", "instance_norms='ibn'"]
    with pytest.raises(WeightsError):  # instance norms of that kind have weights
        from_weights(parser.parse_args(wanted))


def test_a_refusal_gives_the_reason_and_none_of_torchs_advice(tmp_path: Path) -> None:
    path = tmp_path / "objects.pth"
    torch.save({"weight": np.array([object()])}, path)
    with pytest.raises(WeightsError, match=r"refused: Unsupported global: GLOBAL numpy\S*_reconstruct\.") as caught:
        read(path)
    assert not any(word in str(caught.value) for word in ("can still be loaded", "trust", "\x1b"))
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(WeightsError, match="refused: it holds no weights"):
        read(path)
