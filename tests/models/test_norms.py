"""Instance norms inside trunks."""

import pytest
from torch import Tensor, nn

from dgseg.models.base import SegmentationModel
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
