"""Batch normalisation folded into the convolution before it, for inference."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction

TOLERANCE = 1e-4  # of a map's largest magnitude


def _pairs(model: SegmentationModel, images: Tensor) -> tuple[list[tuple[str, str]], Prediction]:
    """(convolution, its normalisation), found by running the model: what a normalisation received was the very tensor
    that one convolution made, unaltered. Layers that meet several partners are left alone."""
    made_by: dict[tuple[int, int], str] = {}  # by the tensor's identity and version
    alive: list[Tensor] = []  # an id is only one tensor's while that tensor lives
    partners: dict[str, set[str]] = {}

    def convolved(name: str) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            made_by[id(output), output._version] = name
            alive.append(output)

        hooks.append(model.get_submodule(name).register_forward_hook(hook))

    def normalised(name: str) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            partner = made_by.get((id(inputs[0]), inputs[0]._version), "")
            partners.setdefault(name, set()).add(partner)
            partners.setdefault(partner, set()).add(name)

        hooks.append(model.get_submodule(name).register_forward_pre_hook(hook))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if type(module) is nn.Conv2d:  # a subclass may use its weight in ways of its own
            convolved(name)
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            normalised(name)
    try:
        prediction: Prediction = model(images)
    finally:
        for handle in hooks:
            handle.remove()
    norms = [name for name, found in partners.items() if found and isinstance(model.get_submodule(name), _BatchNorm)]
    found = []
    for norm in norms:
        convolution = next(iter(partners[norm]))
        if convolution and partners[norm] == {convolution} and partners[convolution] == {norm}:
            found.append((convolution, norm))
    return found, prediction


def _fold(convolution: nn.Conv2d, norm: _BatchNorm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double() * scale
    if convolution.bias is not None:
        bias = bias + convolution.bias.double() * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = convolution.weight
    convolution.weight = nn.Parameter((weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype))
    convolution.bias = nn.Parameter(bias.to(weight.dtype))


@torch.no_grad()
def fold_batch_norms(model: SegmentationModel, *, side: int = 0) -> tuple[SegmentationModel, int]:
    """A copy for inference and how many normalisations it lost. Both models run once on a random image, `side` pixels
    wide and high (0: the least that the model takes, and at least 64), and must agree in every map."""
    if model.training:
        raise ValueError("batch normalisation can only be folded in eval mode, where it is constant: call .eval()")
    parameter = next(model.parameters())
    side = side or max(model.minimum, 64)
    side = -(-side // model.multiple) * model.multiple
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, side, side, generator=generator).to(parameter.device, parameter.dtype)
    pairs, before = _pairs(model, images)
    folded = copy.deepcopy(model)
    for convolution, norm in pairs:
        old = folded.get_submodule(norm)
        _fold(folded.get_submodule(convolution), old)  # type: ignore[arg-type]
        parent, _, name = norm.rpartition(".")
        # timm has normalisations that carry the activation behind them.
        setattr(folded.get_submodule(parent), name, getattr(old, "act", nn.Identity()))
    folded.requires_grad_(False)
    after = folded(images)
    maps = {"logits": (before.logits, after.logits)}
    maps |= {name: (tensor, after.features[name]) for name, tensor in before.features.items()}
    for name, (expected, actual) in maps.items():
        error = float((actual - expected).abs().max()) / max(float(expected.abs().max()), 1e-12)
        if not error <= TOLERANCE:
            raise ValueError(
                f"this model cannot be folded: its {name} would change by {error:.1e} of its largest magnitude"
            )
    return folded, len(pairs)
