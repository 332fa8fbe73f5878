import pytest
import torch

from dgseg.models import build
from dgseg.objectives import CrossEntropy, Objectives, PrototypeContrast
from dgseg.training import Learner
from dgseg.training.optimizers import build as optimizers
from dgseg.training.optimizers import parameter_groups
from dgseg.training.recipe import AdamWConfig, ScheduleConfig, SGDConfig


def learner(name: str = "daformer_mitb0") -> Learner:
    with torch.device("meta"):
        model = build(name)
    objectives = {"ce": CrossEntropy.Config().build(model), "gap": PrototypeContrast.Config(dim=64).build(model)}
    return Learner(model, Objectives(objectives))


def test_daformer_s_groups() -> None:
    """Heads ten times the rate; norms and position embeddings without decay, biases with."""
    found = learner()
    names = {id(p): name for name, p in found.named_parameters()}
    groups = parameter_groups(found, AdamWConfig(lr=6e-5))
    by_name = {names[id(p)]: group for group in groups for p in group["params"]}
    assert by_name.keys() == dict(found.named_parameters()).keys(), "every parameter once"
    assert sum(len(group["params"]) for group in groups) == len(by_name)

    def settings(name: str) -> tuple[float, float]:
        return by_name[name]["base_lr"], by_name[name]["weight_decay"]

    assert settings("model.backbone.block1.0.attn.q.weight") == (6e-5, 0.01)
    assert settings("model.backbone.block1.0.attn.q.bias") == (6e-5, 0.01)
    assert settings("model.backbone.block1.0.norm1.weight") == (6e-5, 0.0)
    assert settings("model.decode_head.conv_seg.weight") == (pytest.approx(6e-4), 0.01)
    assert settings("objectives.gap.projection.weight") == (pytest.approx(6e-4), 0.01)
    assert groups[0]["base_lr"] == 6e-5, "reports show the backbone's rate"


def test_rates_follow_the_schedule() -> None:
    found = optimizers(learner(), SGDConfig(lr=0.1, head_multiple=10))
    schedule = ScheduleConfig(steps=10, power=1.0)
    assert found.set_rates(schedule, 5) == pytest.approx(0.05)
    assert {round(group["lr"], 6) for group in found.main.param_groups} == {0.05, 0.5}


def test_a_head_multiple_without_a_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no parameter of bisenet_mini begins with 'backbone\.'"):
        parameter_groups(learner("bisenet_mini"), AdamWConfig())
