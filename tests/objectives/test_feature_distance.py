"""FeatureDistance against its definition, cell by cell."""

import pytest
import torch
from torch import Tensor, nn

from dgseg.models import Prediction
from dgseg.models.base import SegmentationModel
from dgseg.objectives import FeatureDistance
from dgseg.objectives.feature_distance import THINGS, thing_cells
from tests.objectives.harness import CLASSES, batch, context, degenerate, prediction, stub
from tests.ops.harness import label_map

STRIDE = 8


class Tiny(SegmentationModel):
    """One convolution that makes features at an eighth of the size."""

    minimum = STRIDE

    def __init__(self) -> None:
        super().__init__(CLASSES)
        self.encoder = nn.Conv2d(3, 16, STRIDE, stride=STRIDE)

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        stage4 = self.encoder(images)
        return Prediction(stage4[:, :1], {"stage4": stage4}, [], {})


def images(N: int = 2, H: int = 32, W: int = 48) -> Tensor:
    return torch.randint(0, 256, (N, 3, H, W), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def expected_mask(truth: Tensor, h: int, w: int) -> Tensor:
    N, H, W = truth.shape
    mask = torch.zeros(N, h, w, dtype=torch.bool)
    for n in range(N):
        for i in range(h):
            for j in range(w):
                cell = truth[n, i * H // h : (i + 1) * H // h, j * W // w : (j + 1) * W // w]
                mask[n, i, j] = any((cell == c).sum() >= 0.75 * cell.numel() for c in THINGS)
    return mask


def truth_with_things(N: int = 2, H: int = 32, W: int = 48) -> Tensor:
    truth = label_map(N, H, W, block=STRIDE, ignored=0.02, seed=1).cpu()
    truth[:, :16, :16] = 13
    truth[:, :2, :8] = 255  # exactly three quarters of the cell are left
    truth[:, :3, 8:16] = 255  # less
    return truth


def test_the_mask_is_the_cells_with_enough_of_one_thing():
    truth = truth_with_things()
    mask = thing_cells(truth, (4, 6), THINGS, 0.75)
    assert torch.equal(mask, expected_mask(truth, 4, 6))
    assert mask[0, 0, 0]
    assert not mask[0, 0, 1]
    assert THINGS == (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)


def test_it_is_the_formula():
    torch.manual_seed(0)
    frozen, student = Tiny().double(), Tiny().double()
    objective = FeatureDistance(FeatureDistance.Config(), stub(), frozen).double()
    truth, shown = truth_with_things(), images()
    features = student(student.normalise(shown).double()).features["stage4"].detach().requires_grad_()
    outputs = {"original": Prediction(features[:, :1], {"stage4": features}, [], {})}
    anchor = frozen(frozen.normalise(shown).double()).features["stage4"].detach()
    mask = expected_mask(truth, *features.shape[-2:])
    expected = 0.005 * (features - anchor).square().sum(1).sqrt()[mask].mean()

    objective._frozen[0].normalise = lambda x: SegmentationModel.normalise(frozen, x).double()
    term = objective(outputs, batch(truth, images=shown), context())["fd"]
    torch.testing.assert_close(term, expected, rtol=1e-10, atol=0)
    (actual,), (wanted,) = (torch.autograd.grad(loss, features) for loss in (term, expected))
    torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-14)
    assert objective.metrics()["fd/cells"] == mask.sum()


@pytest.mark.parametrize("case", degenerate())
def test_degenerate_batches_have_finite_losses_and_gradients(case):
    truth = degenerate()[case].repeat(1, 2, 2)
    frozen = Tiny()
    objective = FeatureDistance(FeatureDistance.Config(), stub(), frozen)
    features = frozen(images(2, 32, 32)).features["stage4"].detach().requires_grad_()  # a distance of exactly 0
    outputs = {"original": Prediction(features[:, :1], {"stage4": features}, [], {})}
    term = objective(outputs, batch(truth, images=images(2, 32, 32)), context())["fd"]
    (gradient,) = torch.autograd.grad(term, features)
    assert term == 0
    assert gradient.isfinite().all()


def test_hrda_compares_at_half_resolution():
    frozen = Tiny()
    objective = FeatureDistance(FeatureDistance.Config(image_scale=0.5), stub(), frozen)
    half = nn.functional.interpolate(frozen.normalise(images()), scale_factor=0.5, mode="bilinear")
    torch.testing.assert_close(objective.anchor(images()), frozen(half).features["stage4"].detach())


def test_the_frozen_encoder_is_no_part_of_the_run():
    frozen = Tiny()
    objective = FeatureDistance(FeatureDistance.Config(), stub(), frozen).train()
    assert list(objective.parameters()) == []
    assert objective.state_dict() == {}
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert objective.to("meta")._frozen[0].encoder.weight.device.type == "meta"


def test_errors_name_the_way_out():
    with pytest.raises(ValueError, match="give pretrained=True or a file"):
        FeatureDistance.Config(pretrained=False).build(Tiny())
    with pytest.raises(ValueError, match=r"image_scale=0\.5 with HRDA"):
        FeatureDistance(FeatureDistance.Config(), stub(), Tiny())(
            {"original": prediction(2, 8, 12)}, batch(truth_with_things(), images=images()), context()
        )
    with pytest.raises(ValueError, match="share"):
        FeatureDistance(FeatureDistance.Config(share=0.5), stub(), Tiny())
    with pytest.raises(ValueError, match="things"):
        FeatureDistance(FeatureDistance.Config(things=(19,)), stub(), Tiny())
