"""CovarianceAlignment against BlindNet's equations, entry by entry in float64."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dgseg.objectives import CovarianceAlignment
from dgseg.objectives.covariance import self_covariance
from tests.models.harness import tiny
from tests.objectives.harness import context, degenerate, stub
from tests.objectives.views import few_classes, leaves, predictions, two_views
from tests.ops.harness import normal

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = {"norm0": (3, 4, 6), "norm1": (5, 2, 3)}


def objective(**options):
    return CovarianceAlignment.Config(features=tuple(SHAPES), **options).build(stub(norm0=3, norm1=5))


def covariance(x: Tensor, y: Tensor, c: int, d: int) -> Tensor:
    """Of channel c of one image's map and channel d of another's."""
    pairs = [x[c, i, j] * y[d, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]
    return torch.stack(pairs).sum() / (len(pairs) - 1) + (1e-5 if c == d else 0)


def normalised(map_NCHW: Tensor) -> Tensor:
    mean, variance = map_NCHW.mean((2, 3), keepdim=True), map_NCHW.var((2, 3), keepdim=True, correction=0)
    return (map_NCHW - mean) / (variance + 1e-5).sqrt()


def oracle(outputs, term: str, cross: str = "diagonal", normalise: bool = False) -> Tensor:
    per_map = []
    for feature in SHAPES:
        original, augmented = outputs["original"].features[feature].detach(), outputs["augmented"].features[feature]
        if normalise:
            original, augmented = normalised(original), normalised(augmented)
        N, C = original.shape[:2]
        squares = []
        for n in range(N):
            x, a = original[n], augmented[n]
            for c in range(C):
                for d in range(C):
                    if term == "cml":
                        squares.append((covariance(x, x, c, d) - covariance(a, a, c, d)) ** 2)
                    elif cross == "whitening":
                        squares.append((covariance(x, a, c, d) - int(c == d)) ** 2)
                    elif c == d:
                        squares.append((covariance(x, a, c, c) - 1) ** 2)
        per_map.append(torch.stack(squares).mean())
    return torch.stack(per_map).mean()


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("cross", ["diagonal", "whitening"])
@pytest.mark.parametrize("N", [1, 2])  # one image's gradients are laid out otherwise than two's
def test_terms_and_gradients_are_the_equations(N, cross, normalise):
    outputs, batch = predictions(SHAPES, N), two_views(few_classes(N))
    terms = objective(cml=0.2, ccl=0.7, cross=cross, normalise=normalise)(outputs, batch, context())
    assert list(terms) == ["covariance/cml", "covariance/ccl"]
    for term, weight in (("cml", 0.2), ("ccl", 0.7)):
        expected = weight * oracle(outputs, term, cross, normalise)
        torch.testing.assert_close(terms[f"covariance/{term}"], expected, rtol=1e-10, atol=0)
        actual = torch.autograd.grad(terms[f"covariance/{term}"], leaves(outputs, "augmented"), retain_graph=True)
        wanted = torch.autograd.grad(expected, leaves(outputs, "augmented"))
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)
    gradients = torch.autograd.grad(sum(terms.values()), leaves(outputs, "original"), allow_unused=True)
    assert gradients == (None, None), "the original view is what is learned from"


def test_each_term_can_be_alone():
    outputs, batch = predictions(SHAPES), two_views(few_classes())
    both = objective()(outputs, batch, context())
    for term in ("cml", "ccl"):
        alone = objective(**{{"cml": "ccl", "ccl": "cml"}[term]: None})
        assert alone(outputs, batch, context()) == {f"covariance/{term}": both[f"covariance/{term}"]}
        assert list(alone.metrics()) == [f"covariance/{term}_unweighted"]
    with pytest.raises(ValueError, match="neither of its terms cml and ccl"):
        objective(cml=None, ccl=None)


def test_equal_views_of_normalised_maps_cost_next_to_nothing():
    outputs = predictions({"norm0": (3, 40, 40), "norm1": (5, 40, 40)})
    outputs["augmented"] = outputs["original"]
    terms = objective(normalise=True)(outputs, two_views(few_classes()), context())
    assert terms["covariance/cml"] == 0
    assert terms["covariance/ccl"] < 1e-6


def test_maps_without_norms_are_normalised_when_asked():
    outputs, batch = predictions(SHAPES), two_views(few_classes())
    plain = objective()(outputs, batch, context())
    for prediction in outputs.values():
        for feature, tensor in prediction.features.items():
            prediction.features[feature] = normalised(tensor)
    expected = objective()(outputs, batch, context())
    scaled = {
        view: prediction._replace(features={k: 3 * v + 1 for k, v in prediction.features.items()})
        for view, prediction in predictions(SHAPES).items()
    }
    torch.testing.assert_close(objective(normalise=True)(scaled, batch, context()), expected, rtol=1e-4, atol=0)
    assert (expected["covariance/ccl"] - plain["covariance/ccl"]).abs() > 1e-3


def test_no_product_is_computed_twice():
    """Both covariances once, one product back to the augmented map; CCL's diagonal needs no matrix."""
    N, C, P = 2, 16, 64
    outputs, batch = predictions({"norm0": (C, 8, 8), "norm1": (C, 8, 8)}), two_views(few_classes())
    with FlopCounterMode(display=False) as flops:
        objective(ccl=None)(outputs, batch, context())["covariance/cml"].backward()
    assert flops.get_total_flops() == 2 * 3 * 2 * N * C * C * P
    with FlopCounterMode(display=False) as flops:
        objective(cml=None)(outputs, batch, context())["covariance/ccl"].backward()
    assert flops.get_total_flops() <= 2 * 2 * 2 * N * C * P


def test_the_shortcut_of_symmetric_gradients_is_the_gradient():
    x = normal(2, 4, 9, dtype=torch.float64).cpu().requires_grad_()
    weights = normal(2, 4, 4, dtype=torch.float64, seed=1).cpu()
    expected = torch.autograd.grad(((x @ x.mT / 8) * (weights + weights.mT)).square().sum(), x)
    actual = torch.autograd.grad(
        ((self_covariance(x) - 1e-5 * torch.eye(4)) * (weights + weights.mT)).square().sum(), x
    )
    torch.testing.assert_close(actual, expected)


def test_under_autocast_covariances_are_float32():
    """Bit for bit those without it, from float32 maps and from maps that autocast has narrowed."""
    batch = two_views(few_classes())
    for cross in ("diagonal", "whitening"):
        for dtype in (torch.float32, torch.bfloat16):
            outputs = {
                view: prediction._replace(features={k: v.detach().to(dtype) for k, v in prediction.features.items()})
                for view, prediction in predictions(SHAPES).items()
            }
            terms = [{}, {}]
            for enabled in (False, True):
                with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                    terms[enabled] = objective(cross=cross)(outputs, batch, context())
            assert terms[0] == terms[1]
            assert all(term.dtype == torch.float32 for term in terms[1].values())


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("cross", ["diagonal", "whitening"])
@pytest.mark.parametrize("N", [1, 2])
def test_maps_without_contrast_have_finite_losses_and_gradients(N, cross, normalise):
    """A channel that is 0 everywhere, a constant one, a map of two pixels: labels play no part."""
    outputs = predictions({"norm0": (3, 4, 6), "norm1": (5, 1, 2)}, N)
    for prediction in outputs.values():
        prediction.features["norm0"].data[:, 0], prediction.features["norm0"].data[:, 1] = 0, 7
    batch = two_views(degenerate()["all void"][:N])
    terms = objective(cross=cross, normalise=normalise)(outputs, batch, context())
    gradients = torch.autograd.grad(sum(terms.values()), leaves(outputs, "augmented"))
    assert all(tensor.isfinite().all() for tensor in [*terms.values(), *gradients])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="cross"):
        objective(cross="all")
    with pytest.raises(ValueError, match="cml of objective 'covariance' must be positive"):
        objective(cml=0.0)
    outputs = predictions(SHAPES)
    outputs["augmented"].features["norm0"] = outputs["augmented"].features["norm0"][..., :-1]
    with pytest.raises(ValueError, match="views of one geometry"):
        objective()(outputs, two_views(few_classes()), context())
    with pytest.raises(ValueError, match="the model was run on: original"):
        objective()({"original": outputs["original"]}, two_views(few_classes()), context())
    with pytest.raises(ValueError, match="no feature map 'norm0'; it has: stage1"):
        CovarianceAlignment.Config().build(tiny("deeplabv3plus_r50", instance_norms=None))
