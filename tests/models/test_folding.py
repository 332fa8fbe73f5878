"""Batch normalisation folded away: the same maps, and models that cannot be folded are left or refused."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dgseg.models.base import SegmentationModel
from dgseg.models.folding import fold_batch_norms
from dgseg.models.prediction import Prediction
from tests.models.harness import TINY, images, tiny


def lived_in(model: nn.Module) -> nn.Module:
    """Statistics and affine parameters as training leaves them."""
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(norm.bias, generator=generator)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@pytest.mark.parametrize("name", sorted(name for name, row in TINY.items() if row.size_of is None))
def test_every_model_keeps_its_maps(name: str) -> None:
    model = lived_in(tiny(name)).eval()
    before = norms(model)
    folded, count = fold_batch_norms(model)
    assert norms(model) == before, "the model itself is untouched"
    assert norms(folded) == before - count
    assert not any(p.requires_grad for p in folded.parameters())
    with torch.no_grad():
        x = images(name)
        expected, actual = model(x).logits, folded(x).logits
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["bisenet_mini", "mask2former_r50"])
def test_nothing_is_left_where_everything_can_go(name: str) -> None:
    folded, count = fold_batch_norms(lived_in(tiny(name)).eval())
    assert count > 10
    left = [name for name, module in folded.named_modules() if isinstance(module, _BatchNorm)]
    assert all(name.startswith("aux") for name in left), "auxiliary heads do not run in inference"


class Odd(SegmentationModel):
    """One convolution feeds two norms, one norm serves two convolutions, one has nothing before it."""

    def __init__(self) -> None:
        super().__init__(3)
        self.first = nn.BatchNorm2d(3)
        self.shared_conv = nn.Conv2d(3, 3, 3, padding=1)
        self.left, self.right = nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.shared_norm = nn.BatchNorm2d(3)
        self.plain = nn.Conv2d(3, 3, 1, bias=False)
        self.foldable = nn.BatchNorm2d(3, affine=False)

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        x = self.shared_conv(self.first(images))
        x = self.left(x) + self.right(x)
        x = self.shared_norm(self.a(x)) + self.shared_norm(self.b(x))
        return Prediction(self.foldable(self.plain(x)), {}, [], {})


def test_layers_with_several_partners_are_left_alone() -> None:
    folded, count = fold_batch_norms(lived_in(Odd()).eval())
    assert count == 1
    assert isinstance(folded.foldable, nn.Identity)


class Altered(Odd):
    """Another branch is added to the convolution's output, in place, before its norm."""

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        x = self.plain(images)
        x += self.a(images)
        return Prediction(self.foldable(x), {}, [], {})


def test_outputs_that_are_written_to_are_left_alone() -> None:
    assert fold_batch_norms(lived_in(Altered()).eval())[1] == 0


class Watched(Odd):
    """The map between a convolution and its norm is an output: folding would change it."""

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        x = self.plain(images)
        return Prediction(self.foldable(x), {"decoder": x}, [], {})


def test_a_model_that_would_change_is_refused() -> None:
    with pytest.raises(ValueError, match="its decoder would change"):
        fold_batch_norms(lived_in(Watched()).eval())


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="eval mode"):
        fold_batch_norms(tiny("bisenet_mini").train())
