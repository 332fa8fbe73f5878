"""What holds for all objectives: names, views, ranks, compiled graphs."""

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from dgseg.data import Batch
from dgseg.models import Aux, Prediction
from dgseg.models.base import SegmentationModel
from dgseg.objectives import BoundaryEmphasis, CrossEntropy, FeatureDistance, Objectives, PrototypeContrast, StepContext
from dgseg.objectives.pixels import feature_channels
from tests.objectives.harness import CLASSES, batch, context, labels, prediction, stub
from tests.objectives.test_feature_distance import Tiny, images
from tests.ops.harness import compiled, run_ranks

pytestmark = pytest.mark.usefixtures("one_thread")


def flex_seg(**gap: Any) -> Objectives:
    torch.manual_seed(0)
    contrast = PrototypeContrast.Config(dim=16, **gap).build(stub(decoder=24))
    return Objectives({"ube": BoundaryEmphasis.Config().build(stub()), "gap": contrast}).double()


def test_terms_come_weighted_and_metrics_do_not():
    objectives, out = flex_seg(), prediction(D=24)
    for step in range(2):
        terms = objectives({"original": out}, batch(labels()), context(step))
    metrics = objectives.metrics()
    assert set(terms) == {"ube", "gap"}
    names = {"ube/unweighted", "ube/band_entropy", "gap/unweighted", "gap/seen", "gap/mean_weight"}
    assert set(metrics) == names
    assert terms["gap"] == 0.5 * metrics["gap/unweighted"] != 0
    assert not any(value.requires_grad or value.dim() for value in metrics.values())
    losses = objectives.image_losses()
    assert losses is not None
    assert losses.losses.shape == (3,)
    assert [group.name for group in objectives.parameter_groups()] == ["gap.projection"]


def test_equal_names_are_refused():
    objectives = Objectives({"one": CrossEntropy.Config().build(stub()), "two": CrossEntropy.Config().build(stub())})
    with pytest.raises(ValueError, match="'one' and 'two' both return terms named 'ce'"):
        objectives({"original": prediction()}, batch(labels()), context())
    with pytest.raises(ValueError, match="at least one"):
        Objectives({})


def test_a_view_has_its_own_prediction_and_labels():
    truth, other = labels(), labels(seed=5)
    views = {"augmented": batch(other)}
    found = batch(truth)
    found = Batch(found.images, truth, found.ids, found.draws, found.indices, found.sources, views)
    outputs = {"original": prediction(), "augmented": prediction(seed=4)}
    augmented = CrossEntropy.Config(view="augmented").build(stub())(outputs, found, context())["ce"]
    plain = CrossEntropy.Config().build(stub())({"original": outputs["augmented"]}, batch(other), context())["ce"]
    assert torch.equal(augmented, plain)
    with pytest.raises(ValueError, match="the model was run on: original, augmented"):
        CrossEntropy.Config(view="third").build(stub())(outputs, found, context())
    with pytest.raises(ValueError, match="the batch has: original"):
        CrossEntropy.Config(view="augmented").build(stub())(outputs, batch(truth), context())
    with pytest.raises(ValueError, match="needs labels"):
        CrossEntropy.Config().build(stub())(outputs, batch(None), context())


class TwoMaps(SegmentationModel):
    """Works on its images and parameters only, as models that can be built on meta do."""

    def __init__(self) -> None:
        super().__init__(CLASSES)
        self.first, self.norm = torch.nn.Conv2d(3, 24, 4, stride=4), torch.nn.BatchNorm2d(24)
        self.second = torch.nn.Conv2d(24, CLASSES, 1)

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        decoder = self.norm(self.first(images))
        return Prediction(self.second(decoder), {"decoder": decoder}, [], {})


def test_a_config_finds_the_width_of_the_feature_map_and_leaves_the_model_alone():
    model = TwoMaps()
    before = copy.deepcopy(model.state_dict())
    gap = PrototypeContrast.Config(dim=16).build(model)
    assert gap.projection is not None
    assert gap.projection.in_channels == 24
    assert PrototypeContrast.Config(dim=24).build(model).projection is None
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(ValueError, match="it has: decoder"):
        feature_channels(model, "fused")


# Three images on one process, or one on the first rank and two on the second.
STEPS, SPLITS = 3, {None: slice(0, 3), 0: slice(0, 1), 1: slice(1, 3)}
VARIANTS: dict[str, dict[str, Any]] = {
    "batch_mean": {},
    "pixel": {"update": "pixel", "nested": True},
    "cap": {"update": "pixel", "cap": 4},
}


def run_steps(rank: int | None, group: dist.ProcessGroup | None, gap: dict[str, Any]) -> dict[str, Any]:
    objectives = flex_seg(**gap)
    torch.manual_seed(1)
    objectives["fd"] = FeatureDistance(FeatureDistance.Config(weight=1.0), stub(), Tiny())
    part = SPLITS[rank]
    seen: dict[str, list[Any]] = {"terms": [], "gradients": [], "images": []}
    parameters = list(objectives.parameters())
    for step in range(STEPS):
        truth = labels(seed=step)
        truth[1, :, :24] = 13
        whole = prediction(D=24, seed=5 * step)
        stage4 = prediction(3, 16, 24, seed=3 + step).features["stage4"]
        mine = [tensor.detach()[part].requires_grad_() for tensor in (whole.logits, whole.features["decoder"], stage4)]
        logits, decoder, stage4 = mine
        features = {"decoder": decoder, "stage4": stage4}
        outputs = {"original": Prediction(logits, features, [Aux(logits, 0.4)], {})}
        found = batch(truth[part], first_draw=3 * step + (part.start or 0), images=images(3)[part])
        terms = objectives(outputs, found, StepContext(step, STEPS, group, seed=3))
        gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), mine + parameters)
        seen["terms"].append(torch.stack(list(terms.values())).detach())
        seen["gradients"].append(list(gradients))
        losses = objectives.image_losses()
        assert losses is not None
        seen["images"].append(losses.losses)
    return seen | {"state": objectives.state_dict()}


def all_variants(rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    return {name: run_steps(rank, group, gap) for name, gap in VARIANTS.items()}


def test_two_ranks_are_one_process():
    ranks = run_ranks(all_variants)
    for name, gap in VARIANTS.items():
        alone = run_steps(None, None, gap)
        first, second = (rank[name] for rank in ranks)
        close = {"rtol": 1e-9, "atol": 1e-11}
        for step in range(STEPS):
            mean = (first["terms"][step] + second["terms"][step]) / 2
            torch.testing.assert_close(mean, alone["terms"][step], **close)
            for i, expected in enumerate(alone["gradients"][step]):
                mine = [rank["gradients"][step][i] / 2 for rank in (first, second)]
                # Inputs' gradients are each rank's own images'; parameters' are averaged over the ranks.
                torch.testing.assert_close(torch.cat(mine) if i < 3 else sum(mine), expected, **close)
            torch.testing.assert_close(
                torch.cat([first["images"][step], second["images"][step]]), alone["images"][step], **close
            )
        assert alone["terms"][-1][2] != 0, "the bank must have been seen"
        for key, expected in alone["state"].items():
            assert torch.equal(first["state"][key], second["state"][key])
            torch.testing.assert_close(first["state"][key], expected, **close)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gap", VARIANTS.values(), ids=VARIANTS)
def test_a_compiled_step_is_the_eager_one(backend, gap):
    """The update moves the bank between loss and backward: the backward must see the bank, the weights and what was
    seen as the loss saw them."""
    eager = flex_seg(**gap)
    graph = copy.deepcopy(eager)
    step_compiled = compiled(graph, backend)
    for step in range(3):
        # From step 1 on there are prototypes that this very step sees first.
        truth = labels(seed=step)
        truth[truth > 6 + 4 * step] = 255
        gradients = []
        for run, module in ((eager, eager), (step_compiled, graph)):
            out = prediction(D=24, seed=step, aux=[Aux(prediction(seed=50 + step).logits.detach(), 0.4)])
            terms = run({"original": out}, batch(truth), context(step))
            leaves = [out.logits, out.features["decoder"], *module.parameters()]
            gradients.append([*torch.autograd.grad(torch.stack(list(terms.values())).sum(), leaves), *terms.values()])
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(graph.state_dict(), eager.state_dict(), rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(graph.metrics(), eager.metrics(), rtol=1e-9, atol=0)
