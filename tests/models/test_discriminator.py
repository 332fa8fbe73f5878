"""The output-space discriminator."""

import pytest
import torch

from dgseg.models import build


def test_shape_and_published_layers() -> None:
    model = build("discriminator", 19)
    sizes = [tuple(p.shape) for p in model.parameters() if p.dim() == 4]
    assert sizes == [(64, 19, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4)]
    assert model(torch.rand(2, 19, 64, 96).softmax(1)).shape == (2, 1, 2, 3)


def test_it_lets_gradients_through_to_the_probabilities() -> None:
    probabilities = torch.rand(1, 3, 40, 33, requires_grad=True)
    forward = torch.compile(build("discriminator", 3, width=4), fullgraph=True, backend="eager")
    forward(probabilities).sum().backward()
    assert probabilities.grad is not None
    assert probabilities.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 4, 64, 64), r"\[N, 3, H, W\]"), ((1, 3, 31, 64), "at least 32 pixels.*31x64")]
)
def test_wrong_input_is_explained(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("discriminator", 3, width=4)(torch.zeros(shape))


def test_nothing_is_pretrained() -> None:
    with pytest.raises(ValueError, match="leave pretrained=False"):
        build("discriminator", 3, pretrained=True)
