"""SemanticContrast against BlindNet's equations, anchor by anchor in float64."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dgseg.objectives import SemanticContrast
from dgseg.objectives.pixels import nearest
from dgseg.ops.prototype_ema.order import pixel_keys
from tests.models.harness import tiny
from tests.objectives.harness import CLASSES, context, degenerate, stub
from tests.objectives.test_pixel_samples import chosen_by_hand, confused_by_hand
from tests.objectives.views import few_classes, leaves, predictions, rightly, two_views
from tests.ops.harness import deterministic_and_poisoned

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = {"stage4": (6, 6, 8), "concat": (5, 12, 16), "decoder": (4, 12, 16)}
WIDTHS = {feature: shape[0] for feature, shape in SHAPES.items()}
SMALL = {"dim": 8, "classes": 4, "samples": 6, "anchors": 9, "negatives": 3}


def objective(**options) -> SemanticContrast:
    torch.manual_seed(0)
    found = SemanticContrast.Config(features=tuple(WIDTHS), **(SMALL | options)).build(stub(**WIDTHS)).double()
    for parameter in found.parameters():  # biases are 0 at first
        parameter.data += 0.1 * torch.randn_like(parameter)
    return found


def situation(seed: int = 0, N: int = 2):
    labels = few_classes(N, seed=seed)
    return labels, rightly(predictions(SHAPES, N, seed=seed), labels), two_views(labels, first_draw=3 * seed)


def embedded(head, feature_CHW: Tensor, pixel: int, *, detached: bool = False) -> Tensor:
    """The head's two 1x1 convolutions at one pixel, and the result at length 1."""
    (first, _, last), x = head, feature_CHW.flatten(1)[:, pixel]
    W1, b1, W2, b2 = (p.detach() if detached else p for p in (first.weight, first.bias, last.weight, last.bias))
    y = W2 @ (W1 @ x + b1).clamp(min=0) + b2
    return y / y.square().sum().sqrt()


def info_nce(anchor: Tensor, positive: Tensor, negatives: list[Tensor], temperature: float) -> Tensor:
    own = (anchor @ positive / temperature).exp()
    return -(own / (own + sum((anchor @ negative / temperature).exp() for negative in negatives))).log()


def oracle(contrast: SemanticContrast, labels, outputs, batch, step, options) -> dict[str, Tensor]:
    options = SMALL | {"temperature": 0.07, "head": "shared"} | options
    t = options["temperature"]
    means: dict[str, list[Tensor]] = {"cwcl": [], "sdcl": []}
    for feature, (_, h, w) in SHAPES.items():
        losses: dict[str, list[Tensor]] = {"cwcl": [], "sdcl": []}
        small = nearest(labels.masked_fill(labels == 254, 255), (h, w)).flatten(1).tolist()
        guesses = {view: nearest(out.logits.argmax(1), (h, w)).flatten(1).tolist() for view, out in outputs.items()}
        heads = {"cwcl": contrast.heads["cwcl"][feature]}
        heads["sdcl"] = contrast.heads["sdcl"][feature] if options["head"] == "individual" else heads["cwcl"]
        for n in range(len(labels)):
            keys = pixel_keys(batch.draws, 7, step, h, w)[n].tolist()
            class_keys = pixel_keys(batch.draws, 7, step, 1, CLASSES)[n].tolist()
            wrong = [guess != label for guess, label in zip(guesses["original"][n], small[n], strict=True)]
            k_map, q_map = outputs["original"].features[feature][n].detach(), outputs["augmented"].features[feature][n]

            @cache
            def q(term, pixel, heads=heads, q_map=q_map):
                detached = term == "sdcl" and options["head"] == "stop_gradient"
                return embedded(heads[term], q_map, pixel, detached=detached)

            @cache
            def k(term, pixel, heads=heads, k_map=k_map):
                return embedded(heads[term], k_map, pixel, detached=True)

            chosen = chosen_by_hand(keys, class_keys, small[n], wrong, options["classes"], options["samples"])
            for c, pixels in chosen.items():
                for pixel in pixels:
                    negatives = [
                        k("cwcl", other)
                        for d, others in chosen.items()
                        for other in others
                        if d != c or options.get("released_negatives")
                    ]
                    if negatives:
                        losses["cwcl"].append(info_nce(q("cwcl", pixel), k("cwcl", pixel), negatives, t))
            allowed = [not w or not options.get("anchors_require_right") for w in wrong]
            confused = confused_by_hand(
                keys, small[n], guesses["augmented"][n], allowed, CLASSES, options["anchors"], options["negatives"]
            )
            for pixel, others in confused.items():
                negatives = [q("sdcl", other) for other in others]
                losses["sdcl"].append(info_nce(q("sdcl", pixel), k("sdcl", pixel), negatives, t))
        for term, found in losses.items():
            means[term].append(torch.stack(found).mean())
    return {term: torch.stack(found).mean() for term, found in means.items()}


VARIANTS = {
    "paper": {},
    "released": {"released_negatives": True, "anchors_require_right": True},
    "stop gradient": {"head": "stop_gradient", "temperature": 0.2},
    "individual": {"head": "individual", "samples": 5},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_terms_and_gradients_are_the_equations(options):
    """The last stage's 48 pixels are all embedded and then picked, of the larger maps' pixels the picked ones are."""
    contrast, step = objective(cwcl=0.3, sdcl=0.5, **options), 4
    labels, outputs, batch = situation()
    terms = contrast(outputs, batch, context(step))
    expected = oracle(contrast, labels, outputs, batch, step, options)
    inputs = [*leaves(outputs, "augmented"), *contrast.parameters()]
    for term, weight in (("cwcl", 0.3), ("sdcl", 0.5)):
        torch.testing.assert_close(terms[f"contrast/{term}"], weight * expected[term], rtol=1e-9, atol=0)
        actual, wanted = (
            torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
            for loss in (terms[f"contrast/{term}"], weight * expected[term])
        )
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-11)
    gradients = torch.autograd.grad(sum(terms.values()), leaves(outputs, "original"), allow_unused=True)
    assert gradients == (None, None, None), "keys are detached"
    assert {"contrast/cwcl_anchors", "contrast/sdcl_anchors", "contrast/cwcl_unweighted"} <= set(contrast.metrics())


def test_each_term_can_be_alone():
    _, outputs, batch = situation()
    both = objective()(outputs, batch, context())
    for term in ("cwcl", "sdcl"):
        alone = objective(**{{"cwcl": "sdcl", "sdcl": "cwcl"}[term]: None})
        (found,) = alone(outputs, batch, context()).items()
        assert found[0] == f"contrast/{term}"
        torch.testing.assert_close(found[1], both[f"contrast/{term}"], rtol=1e-12, atol=0)
        (group,) = alone.parameter_groups()
        assert len(group.parameters) == 4 * len(SHAPES)


def test_individual_heads_are_twice_as_many_and_each_has_its_own_gradient():
    contrast = objective(head="individual")
    (group,) = contrast.parameter_groups()
    assert len(group.parameters) == 8 * len(SHAPES)
    _, outputs, batch = situation()
    contrast(outputs, batch, context())["contrast/sdcl"].backward()
    assert not any(p.grad.any() for p in contrast.heads["cwcl"].parameters())
    assert all(p.grad.abs().sum() > 0 for p in contrast.heads["sdcl"].parameters())


def test_the_released_negatives_hold_the_positive_and_the_own_class():
    """Identical embeddings: the loss is the logarithm of how many terms the sum has."""
    contrast = objective(released_negatives=True, sdcl=None)
    labels, outputs, batch = situation()
    for parameter in contrast.parameters():
        parameter.data.zero_()
    for feature in SHAPES:
        contrast.heads["cwcl"][feature][2].bias.data.fill_(1)
    term = contrast(outputs, batch, context())["contrast/cwcl"]
    counts = [(nearest(labels, SHAPES[f][1:]).flatten(1)[:, :, None] == torch.arange(5)).sum(1) for f in SHAPES]
    per_map = []
    for count in counts:
        samples = 6 * (count > 6).sum(1).clamp(max=4)
        per_map.append((samples * (samples + 1).log()).sum() / samples.sum())
    torch.testing.assert_close(term, (0.3 * torch.stack(per_map).mean()).double(), rtol=1e-6, atol=0)


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


def test_no_tensor_grows_with_the_pairs_of_all_pixels():
    """At the paper's sizes, forward and backward: 9,216 pixels have 85 million pairs."""
    P, shapes = 96 * 96, {"decoder": (8, 96, 96)}
    labels = few_classes(1, 96, 96)
    outputs = rightly(predictions(shapes, 1, logits=(96, 96)), labels, share=0.3)
    contrast = SemanticContrast.Config(features=("decoder",)).build(stub(decoder=8)).double()
    with Largest() as largest:
        terms = contrast(outputs, two_views(labels), context())
        sum(terms.values()).backward()
    assert contrast.metrics()["contrast/sdcl_anchors"] == 1000
    assert contrast.metrics()["contrast/cwcl_anchors"] == 250
    # Samples with each other, anchors with the negatives of all classes, or embeddings of the picked pixels.
    slots = 15 * 50 + 1000 + CLASSES * 20
    assert largest.numel <= max((15 * 50) ** 2, 1000 * (1 + CLASSES * 20), 256 * slots) < P * P / 100


@pytest.mark.parametrize("options", [VARIANTS["paper"], VARIANTS["released"]], ids=["paper", "released"])
@pytest.mark.parametrize("case", degenerate())
def test_degenerate_batches_have_finite_losses_and_gradients(case, options):
    labels = degenerate()[case]
    shapes = {"stage4": (6, 2, 2), "concat": (5, 8, 8), "decoder": (4, 1, 1)}
    for outputs in (predictions(shapes, logits=(8, 8)), rightly(predictions(shapes, logits=(8, 8)), labels, share=1)):
        contrast = objective(**options)
        outputs["augmented"].features["concat"].data[:, :, :4] = 0
        terms = contrast(outputs, two_views(labels), context())
        for term in terms.values():
            inputs = [*leaves(outputs, "augmented"), *contrast.parameters()]
            gradients = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
            assert term.isfinite()
            assert all(gradient.isfinite().all() for gradient in gradients)
        if "one image" not in case and not options.get("released_negatives"):
            assert terms["contrast/cwcl"] == 0, "one class has no negatives"
            assert terms["contrast/cwcl"].requires_grad


def test_equal_steps_are_equal_bits_and_other_steps_are_others():
    _, outputs, batch = situation()
    with deterministic_and_poisoned():
        runs = []
        for _ in range(2):
            contrast = objective()
            terms = contrast(outputs, batch, context(step=4))
            gradients = torch.autograd.grad(sum(terms.values()), leaves(outputs, "augmented"))
            runs.append([*terms.values(), *gradients])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    for other in (context(step=5), context(step=4, seed=8)):
        assert objective()(outputs, batch, other)["contrast/cwcl"] != runs[0][0]


def test_a_restored_objective_goes_on_bit_for_bit():
    _, outputs, batch = situation()
    first, second = objective(), SemanticContrast.Config(features=tuple(WIDTHS), **SMALL).build(stub(**WIDTHS)).double()
    second.load_state_dict(first.state_dict())
    assert first(outputs, batch, context(3)) == second(outputs, batch, context(3))


def test_autocast_changes_the_terms_by_rounding_alone():
    _, outputs, batch = situation()
    narrow = {
        view: p._replace(features={k: v.detach().float().requires_grad_() for k, v in p.features.items()})
        for view, p in outputs.items()
    }
    results = []
    for enabled in (False, True):
        contrast = objective().float()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = contrast(narrow, batch, context())
        sum(terms.values()).backward()
        assert all(term.dtype == torch.float32 for term in terms.values())
        assert all(parameter.grad.isfinite().all() for parameter in contrast.parameters())
        results.append(list(terms.values()))
    torch.testing.assert_close(*results, rtol=3e-2, atol=0)
    assert results[0] != results[1], "the heads are in bfloat16"


def test_anchors_of_the_released_code_are_a_part_of_the_papers():
    _, outputs, batch = situation()
    counts = []
    for require in (False, True):
        contrast = objective(anchors_require_right=require, anchors=1000)
        contrast(outputs, batch, context())
        counts.append(contrast.metrics()["contrast/sdcl_anchors"])
    assert 0 < counts[1] < counts[0]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="head must be"):
        objective(head="own")
    with pytest.raises(ValueError, match="there is no cwcl"):
        objective(head="stop_gradient", cwcl=None)
    with pytest.raises(ValueError, match="at least 1"):
        objective(negatives=0)
    with pytest.raises(ValueError, match="neither of its terms"):
        objective(cwcl=None, sdcl=None)
    _, outputs, batch = situation()
    outputs["augmented"].features["stage4"] = outputs["augmented"].features["stage4"][..., :-1]
    with pytest.raises(ValueError, match="views of one geometry"):
        objective()(outputs, batch, context())
    with pytest.raises(ValueError, match="no feature map 'fused'"):
        SemanticContrast.Config(features=("fused",)).build(tiny("bisenet_mini"))
    assert math.isclose(SemanticContrast.Config().temperature, 0.07)
