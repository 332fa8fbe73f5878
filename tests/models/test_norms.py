"""Instance norms inside trunks."""

import pytest
import torch
from torch import Tensor, nn

from dgseg.models.base import SegmentationModel
from dgseg.models.norms import InstanceNorm, instance_norm
from tests.models.harness import images, tiny


def run_outside(model: SegmentationModel, batch: Tensor) -> list[str]:
    """Layers that run while a module around them, that has a forward pass of its own, does not: where a model is
    sharded module by module, their parameters are not there."""
    running: set[str] = set()
    found: list[str] = []
    with_forward = {name for name, module in model.named_modules() if type(module).forward is not nn.Module.forward}

    def watch(name: str, module: nn.Module) -> None:
        around = {name.rsplit(".", cuts)[0] for cuts in range(1, name.count(".") + 1)} & with_forward

        def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            running.add(name)
            if list(module.parameters(recurse=False)) and not around <= running:
                found.append(name)

        def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            running.discard(name)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    for name, module in model.named_modules():
        if name:
            watch(name, module)
    model(batch)
    return found


@pytest.mark.parametrize("norms", [None, "whitening", "ibn"])
@pytest.mark.parametrize("name", ["deeplabv3plus_r50", "deeplabv3plus_shufflenetv2", "deeplabv3plus_mobilenetv2"])
def test_parameters_are_used_in_the_forward_pass_of_what_holds_them(name, norms):
    assert run_outside(tiny(name, instance_norms=norms), images(name)) == []


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("N", [1, 2])
@pytest.mark.parametrize("norm", [InstanceNorm(7), InstanceNorm(7, affine=True), instance_norm])
def test_instance_norms_have_the_gradient_of_their_formula(norm, N, layout):
    """Of one image too, whose gradient may be laid out in any order: torch's own is wrong there."""
    torch.manual_seed(0)
    x = torch.randn(N, 7, 6, 5, requires_grad=True)
    gradient = torch.randn(N, 7, 6, 5).to(memory_format=layout)
    centred = x - x.mean((2, 3), keepdim=True)
    wanted = centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
    found = norm(x)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, x, gradient), torch.autograd.grad(wanted, x, gradient))
