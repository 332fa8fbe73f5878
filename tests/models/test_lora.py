"""Adapters: nothing at first, the same after merging, and files that fit one base only."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dgseg.models.lora import LoRALinear, add_adapters, base_identity, load_adapter, merge_adapters, save_adapter


class Network(nn.Module):
    def __init__(self, seed: int = 0, *, rank: int = 2, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.ModuleDict(
            {"qkv": nn.Linear(6, 9), "proj": nn.Linear(9, 6, bias=False), "other": nn.Linear(6, 6)}
        )
        add_adapters(self.backbone, rank=rank, alpha=4.0)
        self.head = nn.Sequential(nn.Linear(6, classes), nn.BatchNorm1d(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.backbone.values():
            x = layer(x)
        return self.head(x)


def trained(seed: int = 0) -> Network:
    model = Network(seed)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    return model.eval()


def test_an_adapter_starts_as_nothing() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 9)
    x = torch.randn(4, 6)
    assert torch.equal(LoRALinear(linear, rank=2, alpha=4.0)(x), linear(x))


def test_an_adapter_is_its_formula() -> None:
    linear = nn.Linear(6, 9)
    layer = LoRALinear(linear, rank=2, alpha=8.0)
    with torch.no_grad():
        layer.lora_b.normal_()
    x = torch.randn(4, 6)
    expected = linear(x) + 8.0 / 2 * x @ (layer.lora_b @ layer.lora_a).T
    torch.testing.assert_close(layer(x), expected)


def test_only_named_layers_are_adapted_and_all_others_freeze() -> None:
    model = Network()
    kinds = {name: type(layer) for name, layer in model.backbone.items()}
    assert kinds == {"qkv": LoRALinear, "proj": LoRALinear, "other": nn.Linear}
    assert {n for n, p in model.backbone.named_parameters() if p.requires_grad} == {
        f"{layer}.lora_{side}" for layer in ("qkv", "proj") for side in "ab"
    }


def test_base_checkpoints_keep_their_keys() -> None:
    assert {"qkv.weight", "qkv.bias", "proj.weight"} <= set(Network().backbone.state_dict())


def test_merged_is_the_same_function() -> None:
    model = trained()
    x = torch.randn(5, 6)
    expected = model(x)
    merge_adapters(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert not any("lora" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="no adapters"):
        merge_adapters(model)


def test_a_file_holds_what_was_trained_and_comes_back(tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "adapter.safetensors"
    save_adapter(model, path)
    names = set(load_file(path))
    assert {"backbone.qkv.lora_a", "head.0.weight", "head.1.running_mean"} <= names
    assert not names & {"backbone.qkv.weight", "backbone.other.weight"}
    fresh = Network().eval()
    x = torch.randn(5, 6)
    assert not torch.equal(fresh(x), model(x))
    load_adapter(fresh, path)
    assert torch.equal(fresh(x), model(x))


def test_another_base_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter(trained(), path)
    other = Network(seed=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match="trained on other base weights"):
        load_adapter(other, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_the_identity_sees_every_bit() -> None:
    model = Network()
    first = base_identity(model)
    assert first == base_identity(Network())
    with torch.no_grad():
        model.backbone["other"].bias[0] += 1e-7
    assert base_identity(model) != first


@pytest.mark.parametrize(("options", "what"), [({"rank": 3}, "lora"), ({"classes": 4}, "head")])
def test_other_options_are_refused(tmp_path: Path, options: dict[str, int], what: str) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter(trained(), path)
    with pytest.raises(ValueError, match=f"other options.*{what}"):
        load_adapter(Network(**options), path)


def test_files_that_are_no_adapters_are_refused(tmp_path: Path) -> None:
    model = Network()
    with pytest.raises(ValueError, match="no adapter file"):
        load_adapter(model, tmp_path / "absent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ValueError, match="damaged"):
        load_adapter(model, tmp_path / "cut.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="is no adapter file"):
        load_adapter(model, tmp_path / "plain.safetensors")
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="nothing in this model is frozen"):
        save_adapter(model, tmp_path / "x.safetensors")


def test_names_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="no linear layer is named absent"):
        add_adapters(nn.ModuleDict({"qkv": nn.Linear(2, 2)}), rank=1, alpha=1.0, targets=("absent",))
