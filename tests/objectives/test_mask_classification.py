"""Mask2Former's loss as an objective: the numbers are mask_loss's (tests/models), the terms are the loop's."""

import pytest
import torch

from dgseg.models.mask_loss import mask_loss
from dgseg.objectives import MaskClassificationConfig, Objectives, StepContext
from tests.models.harness import images, tiny
from tests.objectives.harness import batch

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "mask2former_r50"


def truth() -> torch.Tensor:
    labels = torch.randint(0, 5, (2, 64, 96), generator=torch.Generator().manual_seed(0)).byte()
    labels[0, :8], labels[1, -8:] = 254, 255
    return labels


def test_terms_are_the_models_own_loss() -> None:
    model = tiny(NAME).train()
    objectives = Objectives({"masks": MaskClassificationConfig(weight=0.5).build(model)})
    prediction, labels = model(images(NAME)), truth()
    terms = objectives({"original": prediction}, batch(labels), StepContext(4, 10, None, 3))
    unknown_is_void = torch.where(labels == 254, torch.full_like(labels, 255), labels)
    expected = mask_loss(model.network.config, prediction, unknown_is_void, seed=3, step=4)
    assert list(terms) == ["masks/class", "masks/mask", "masks/dice"]
    for part, value in expected.items():
        torch.testing.assert_close(terms[f"masks/{part}"], 0.5 * value)
        torch.testing.assert_close(objectives.metrics()[f"masks/{part}"], value.detach())
    assert labels[0, 0, 0] == 254, "the batch keeps its own"
    sum(terms.values()).backward()
    assert model.network.class_predictor.weight.grad.abs().sum() > 0


def test_without_any_labelled_pixel_it_is_finite() -> None:
    model = tiny(NAME).train()
    objective = MaskClassificationConfig().build(model)
    labels = torch.full((2, 64, 96), 255, dtype=torch.uint8)
    total = sum(objective({"original": model(images(NAME))}, batch(labels), StepContext(0, 1)).values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="take mask2former_r50, or"):
        MaskClassificationConfig().build(tiny("bisenet_mini"))
