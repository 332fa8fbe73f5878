"""BlindNet whole: its losses together, on its models, on two ranks, in a compiled graph, and what is left for
inference."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dgseg.models import build
from dgseg.models.profiling import arithmetic, parameters
from dgseg.objectives import CovarianceAlignment, CrossEntropy, Objectives, SemanticContrast, StepContext, Whitening
from tests.models.harness import TINY, tiny
from tests.models.harness import images as random_images
from tests.objectives.harness import batch, context, stub
from tests.objectives.views import few_classes, part, predictions, rightly, two_views
from tests.ops.harness import compiled, label_map, run_ranks

pytestmark = pytest.mark.usefixtures("one_thread")
MODELS = ["deeplabv3plus_r50", "deeplabv3plus_shufflenetv2", "deeplabv3plus_mobilenetv2"]
SHAPES = {"norm0": (3, 12, 16), "norm1": (5, 6, 8), "stage4": (6, 6, 8), "decoder": (4, 12, 16)}
STEPS = 3  # the first idle for whitening, the second measured, the third whitened


def blindnet(**contrast: Any) -> Objectives:
    torch.manual_seed(0)
    norms = {feature: SHAPES[feature][0] for feature in ("norm0", "norm1")}
    maps = {feature: SHAPES[feature][0] for feature in ("stage4", "decoder")}
    small: dict[str, Any] = {"dim": 8, "classes": 4, "samples": 6, "anchors": 9, "negatives": 3}
    each = {
        "covariance": CovarianceAlignment.Config(features=tuple(norms)).build(stub(**norms)),
        "contrast": SemanticContrast.Config(features=tuple(maps), **(small | contrast)).build(stub(**maps)),
        "whitening": Whitening.Config(features=tuple(norms), warmup=0.6, statistics=0.3).build(stub(**norms)),
    }
    return Objectives(each).double()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_the_maps_and_every_parameter_learns(name):
    without = {"uncertainty": False} if "uncertainty" in TINY[name].options else {}  # no loss here trains that head
    model = tiny(name, instance_norms="whitening", **without)
    objectives = Objectives(
        {
            "ce": CrossEntropy.Config(weight=0.5, aux_multiple=2).build(model),
            "ce_augmented": CrossEntropy.Config(
                weight=0.5, aux_multiple=0, view="augmented", name="ce_augmented"
            ).build(model),
            "covariance": CovarianceAlignment.Config().build(model),
            "contrast": SemanticContrast.Config(samples=4).build(model),
            "whitening": Whitening.Config(kind="iw").build(model),
        }
    )
    truth = label_map(2, *TINY[name].size, classes=5, block=32).cpu()
    found = dataclasses.replace(batch(truth), views={"augmented": batch(truth)})
    shown = random_images(name)
    outputs = {"original": model(shown), "augmented": model(shown + 0.3 * torch.randn_like(shown))}
    terms = objectives(outputs, found, StepContext(0, 10))
    assert list(terms) == [
        "ce",
        "ce/aux1",
        "ce_augmented",
        "covariance/cml",
        "covariance/ccl",
        "contrast/cwcl",
        "contrast/sdcl",
        "whitening",
    ]
    metrics = objectives.metrics()
    torch.testing.assert_close(terms["ce"], 0.5 * metrics["ce/unweighted"])
    torch.testing.assert_close(terms["ce/aux1"], 0.4 * metrics["ce/aux1_unweighted"])
    assert all(term.isfinite() and term > 0 for term in terms.values())
    sum(terms.values()).backward()
    for module in (model, objectives):
        for key, parameter in module.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
    widths = {feature: tensor.shape[1] for feature, tensor in outputs["original"].features.items()}
    assert (widths["concat"], widths["decoder"]) == (304, 256)
    assert widths["stage4"] == {"r50": 2048, "shufflenetv2": 1024, "mobilenetv2": 1280}[name.split("_")[1]]


def test_a_model_without_norms_inside_has_its_maps_normalised_by_the_objective():
    model = tiny("bisenet_mini")
    objectives = Objectives(
        {
            "covariance": CovarianceAlignment.Config(features=("stage1", "stage2"), normalise=True).build(model),
            "contrast": SemanticContrast.Config(features=("stage4", "decoder"), dim=8, samples=4).build(model),
        }
    )
    truth = label_map(2, *TINY["bisenet_mini"].size, classes=5, block=32).cpu()
    shown = random_images("bisenet_mini")
    outputs = {"original": model(shown), "augmented": model(shown + 0.3 * torch.randn_like(shown))}
    terms = objectives(outputs, two_views(truth), StepContext(0, 10))
    assert all(term > 0 for term in terms.values())
    assert terms["covariance/ccl"] < 1, "normalised: a diagonal is within 1 of 1"


@pytest.mark.parametrize("name", MODELS)
def test_inference_has_neither_more_parameters_nor_more_products(name):
    """What the paper's Table 3 says. The affine-free norms cost their own statistics, a thousandth of the rest."""
    with torch.device("meta"):
        plain, blind = build(name).eval(), build(name, instance_norms="whitening").eval()
        image = torch.empty(1, 3, 1024, 1024)
    before, after = arithmetic(plain, image), arithmetic(blind, image)
    assert after.flops == before.flops
    assert 0 < after.macs - before.macs < 0.01 * before.macs
    if name == "deeplabv3plus_r50":
        assert after.macs - before.macs < 0.001 * before.macs
    surplus = parameters(plain).total - parameters(blind).total
    assert surplus == {"r50": 128, "shufflenetv2": 48, "mobilenetv2": 0}[name.split("_")[1]]  # the stem's batch norm
    objectives = Objectives({"contrast": SemanticContrast.Config().build(blind)})
    assert sum(parameter.numel() for parameter in objectives.parameters()) > 0
    assert set(blind.state_dict()) <= set(plain.state_dict()), "heads belong to the objectives"


SPLITS = {None: slice(0, 3), 0: slice(0, 1), 1: slice(1, 3)}
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "individual": {"head": "individual", "released_negatives": True, "anchors_require_right": True},
}


def run_steps(rank: int | None, group: dist.ProcessGroup | None, contrast: dict[str, Any]) -> dict[str, Any]:
    objectives, mine = blindnet(**contrast), SPLITS[rank]
    seen: dict[str, list[Any]] = {"terms": [], "gradients": []}
    weights = list(objectives.parameters())
    for step in range(STEPS):
        truth = few_classes(3, seed=step)
        truth[1, :, :16] = 255
        outputs = part(rightly(predictions(SHAPES, 3, seed=step), truth), mine)
        found = two_views(truth[mine], first_draw=3 * step + (mine.start or 0))
        terms = objectives(outputs, found, StepContext(step, STEPS, group, 3))
        inputs = [tensor for view in outputs.values() for tensor in view.features.values()]
        total = torch.stack(list(terms.values())).sum()
        gradients = torch.autograd.grad(total, inputs + weights, allow_unused=True, materialize_grads=True)
        seen["terms"].append(torch.stack(list(terms.values())).detach())
        seen["gradients"].append(list(gradients))
    return seen | {"state": objectives.state_dict(), "inputs": len(inputs)}


def all_variants(rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    return {name: run_steps(rank, group, contrast) for name, contrast in VARIANTS.items()}


def test_two_ranks_are_one_process():
    ranks = run_ranks(all_variants)
    close = {"rtol": 1e-9, "atol": 1e-12}
    for name, contrast in VARIANTS.items():
        alone = run_steps(None, None, contrast)
        first, second = (rank[name] for rank in ranks)
        for step in range(STEPS):
            mean = (first["terms"][step] + second["terms"][step]) / 2
            torch.testing.assert_close(mean, alone["terms"][step], **close)
            for i, expected in enumerate(alone["gradients"][step]):
                mine = [rank["gradients"][step][i] / 2 for rank in (first, second)]
                # Inputs' gradients are each rank's own images'; parameters' are averaged over the ranks.
                whole = torch.cat(mine) if i < alone["inputs"] else sum(mine)
                torch.testing.assert_close(whole, expected, **close)
        assert (alone["terms"][-1] > 0).all(), "whitening must have begun"
        assert alone["state"]["whitening.pairs"] == 3
        for key, expected in alone["state"].items():
            assert torch.equal(first["state"][key], second["state"][key])
            torch.testing.assert_close(first["state"][key], expected, **close)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_step_is_the_eager_one(backend):
    eager = blindnet()
    graph = copy.deepcopy(eager)
    step_compiled = compiled(graph, backend)
    truth = few_classes()
    for step in (1, 2):
        gradients = []
        for run, module in ((eager, eager), (step_compiled, graph)):
            outputs = part(rightly(predictions(SHAPES, seed=step), truth), slice(0, 2))
            terms = run(outputs, two_views(truth), StepContext(step, STEPS, None, 3))
            inputs = [tensor for view in outputs.values() for tensor in view.features.values()]
            total = torch.stack(list(terms.values())).sum()
            every = torch.autograd.grad(
                total, inputs + list(module.parameters()), allow_unused=True, materialize_grads=True
            )
            gradients.append([*every, *terms.values()])
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(graph.state_dict(), eager.state_dict())


def test_flex_seg_and_blindnet_have_terms_of_their_own():
    from dgseg.objectives import BoundaryEmphasis, PrototypeContrast

    objectives = blindnet()
    objectives["ube"] = BoundaryEmphasis.Config().build(stub())
    objectives["gap"] = PrototypeContrast.Config(dim=4).build(stub(decoder=4)).double()
    truth = few_classes()
    outputs = predictions(SHAPES)
    for step in range(2):
        terms = objectives(outputs, two_views(truth), context(step))
    assert {"ube", "gap", "covariance/cml", "contrast/sdcl"} <= set(terms)
    assert {group.name for group in objectives.parameter_groups()} == {"contrast.heads"}
    sum(terms.values()).backward()
