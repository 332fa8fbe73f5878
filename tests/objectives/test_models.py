"""FLEX-Seg on every model: the losses know where each keeps its maps, and every parameter learns."""

from pathlib import Path

import pytest
import torch

from dgseg.objectives import BoundaryEmphasis, FeatureDistance, Objectives, PrototypeContrast, StepContext
from tests.models.harness import CLASSES, TINY, images, tiny
from tests.objectives.harness import batch, stub
from tests.ops.harness import compiled, label_map

ONES = [name for name, row in TINY.items() if row.size_of is None]


def truth(name: str):
    found = label_map(2, *TINY[name].size, classes=CLASSES, block=16).cpu()
    found[0, :4] = 254
    return found


@pytest.mark.parametrize("name", ONES)
def test_every_model_trains_with_flex_seg(name):
    model = tiny(name)
    objectives = Objectives(
        {"ube": BoundaryEmphasis.Config().build(model), "gap": PrototypeContrast.Config(dim=8).build(model)}
    )
    shown, found = images(name), batch(truth(name))
    for step in range(2):
        terms = objectives({"original": model(shown, seed=0, step=step)}, found, StepContext(step, 2))
    assert list(terms) == ["ube", *(f"ube/aux{i + 1}" for i in range(TINY[name].aux)), "gap"]
    assert all(term.isfinite() and term > 0 for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    for module in (model, objectives):
        for key, parameter in module.named_parameters():
            if parameter.requires_grad and not key.startswith("uncertainty."):  # which losses of its own train
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bisenet_mini", "hrda_mitb0"])
def test_a_compiled_training_step_is_the_eager_one(name):
    model = tiny(name)
    objectives = Objectives(
        {"ube": BoundaryEmphasis.Config().build(model), "gap": PrototypeContrast.Config(dim=8).build(model)}
    )
    start = {key: value.clone() for key, value in objectives.state_dict().items()}
    results = []
    shown, found = images(name), batch(truth(name))

    def step_of(step: int):
        return objectives({"original": model(shown, seed=0, step=step)}, found, StepContext(step, 2))

    for run in (step_of, compiled(step_of, "inductor")):
        torch.manual_seed(0)
        objectives.load_state_dict(start)
        results.append([terms for step in range(2) for terms in run(step).values()])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "image_scale"), [("daformer_mitb0", 1.0), ("hrda_mitb0", 0.5), ("bisenet_mini", 1.0)])
def test_features_are_no_distance_from_themselves_and_some_from_others(name, image_scale):
    """The frozen encoder sees what the model's own sees, HRDA's half-size context included."""
    model = tiny(name).eval()
    things = truth(name)
    things[1] = 3
    shown = torch.randint(0, 256, (2, 3, *TINY[name].size), dtype=torch.uint8)
    found = batch(things, images=shown)
    outputs = {"original": model(shown)}
    for seed, distant in ((0, False), (1, True)):
        objective = FeatureDistance(
            FeatureDistance.Config(things=(3,), image_scale=image_scale), stub(), tiny(name, seed=seed)
        )
        term = objective(outputs, found, StepContext(0, 1))["fd"]
        assert objective.metrics()["fd/cells"] > 0
        assert (term > 1e-4) == distant


def test_without_pretrained_weights_there_is_a_clear_error(tmp_path: Path):
    model = tiny("bisenet_mini")
    with pytest.raises(ValueError, match="without pretrained weights"):
        FeatureDistance.Config(model="daformer_mitb0", pretrained=False).build(model)
    weights = str(tmp_path / "weights.safetensors")
    with pytest.raises((ValueError, FileNotFoundError), match=r"weights\.safetensors"):
        FeatureDistance.Config(model="daformer_mitb0", pretrained=weights, things=(1,)).build(model)
