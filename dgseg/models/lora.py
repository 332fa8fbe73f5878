"""Low-rank adapters: y = Wx + b + (α/r)·B(Ax), W frozen and B zero at first; and checkpoints that hold only what was
trained, bound to the base that they were trained on."""

import hashlib
from collections.abc import Collection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FORMAT = "dgseg-adapter-1"
TARGETS = ("qkv", "q_proj", "k_proj", "v_proj", "proj", "fc1", "fc1_g", "fc1_x", "fc2")


class LoRALinear(nn.Linear):
    """A linear layer under its old keys, `lora_a` [r, in] and `lora_b` [out, r] beside them."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.normal_(self.lora_a, std=base.in_features**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.linear(F.linear(input, self.lora_a), self.lora_b * self.scale)

    def merged(self) -> nn.Linear:
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        weight = self.weight.double() + self.scale * (self.lora_b.double() @ self.lora_a.double())
        linear.weight = nn.Parameter(weight.to(self.weight.dtype), requires_grad=False)
        linear.bias = self.bias
        return linear


def _replace(module: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)


def add_adapters(module: nn.Module, *, rank: int, alpha: float, targets: Collection[str] = TARGETS) -> None:
    """Freezes the module and puts an adapter at every linear layer whose name ends in one of `targets`."""
    if rank < 1:
        raise ValueError(f"the adapters' rank must be at least 1; it is {rank}")
    module.requires_grad_(False)
    found = [
        (path, layer)
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and path.rpartition(".")[2] in targets
    ]
    if not found:
        raise ValueError(f"no linear layer is named {', '.join(sorted(targets))}")
    for path, layer in found:
        _replace(module, path, LoRALinear(layer, rank, alpha))


def has_adapters(module: nn.Module) -> bool:
    return any(isinstance(layer, LoRALinear) for layer in module.modules())


@torch.no_grad()
def merge_adapters(module: nn.Module) -> None:
    """For inference: every adapter becomes part of its layer's weight."""
    found = [(path, layer) for path, layer in module.named_modules() if isinstance(layer, LoRALinear)]
    if not found:
        raise ValueError("there are no adapters to merge")
    for path, layer in found:
        _replace(module, path, layer.merged())


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}


def base_identity(model: nn.Module) -> str:
    """A hash of the frozen weights: their names, shapes, types and bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_frozen(model).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_adapter(model: nn.Module, path: str | Path) -> None:
    """A safetensors file of everything but the frozen weights, with their identity."""
    from safetensors.torch import save_file

    frozen = _frozen(model)
    if not frozen:
        raise ValueError("nothing in this model is frozen: save its whole state dict instead")
    trained = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in frozen}
    save_file(trained, path, metadata={"format": FORMAT, "base": base_identity(model)})


def is_adapter(path: str | Path) -> bool:
    """Whether `save_adapter` wrote it; False for any other file, damaged or absent."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, SafetensorError):
        return False


def load_adapter(model: nn.Module, path: str | Path) -> None:
    """What `save_adapter` wrote, onto a model that was built with the same options and the same base weights."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"there is no adapter file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no adapter file; whole checkpoints are read by load_weights")
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in _frozen(model)}
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != expected:
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ValueError(
            f"{path} is for a model built with other options (adapters, rank or classes): {len(differing)} tensors "
            f"differ, the first is {differing[0]}"
        )
    if metadata.get("base") != base_identity(model):
        raise ValueError(
            f"{path} was trained on other base weights (theirs {metadata.get('base', 'unknown')[:12]}, here "
            f"{base_identity(model)[:12]}): build the model with the same `pretrained` first"
        )
    model.load_state_dict(state, strict=False)
