"""Losses and optimisers of one's own, in a file that dgseg knows nothing of: trained, stopped, read back, resumed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dgseg.data import Batch
from dgseg.models import Prediction
from dgseg.objectives import CrossEntropy, Objective, StepContext, objective
from dgseg.recipes import from_yaml, named, override, to_yaml
from dgseg.training import RunConfig, train
from dgseg.training.optimizers import AdamWConfig, Group, OptimizerConfig, SGDConfig, optimizer, state_tensors
from dgseg.training.recipe import Recipe
from tests.training.harness import tiny


@objective("test_penalty")
class Penalty(Objective):
    """Keeps predictions from being too sure; its state is part of what a checkpoint holds."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        weight: float = 0.1
        temperature: float = 1.0

    config: Config
    calls: Tensor

    def __init__(self, config: Config, model: torch.nn.Module) -> None:
        super().__init__(config, model)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        p = (self.prediction(outputs).logits / self.config.temperature).log_softmax(1)
        loss = (p.exp() * p).sum(1).mean() * (1 + 0.01 * self.calls)
        self.calls += 1
        self._metrics = {"unweighted": loss.detach()}
        return {self.name: self.config.weight * loss}


@optimizer("test_nadam")
@dataclass(frozen=True, kw_only=True)
class NAdamConfig(OptimizerConfig):
    lr: float = 1e-3
    momentum_decay: float = 4e-3

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        return torch.optim.NAdam(groups, momentum_decay=self.momentum_decay)


def own(**changes: object) -> Recipe:
    lean = {"data.validation": [], "data.test": [], "schedule.steps": 6, "schedule.warmup": 0, "train.save_every": 3}
    return override(tiny(lean), {"objective.penalty": {"kind": "test_penalty", "temperature": 2}, **changes})


def test_an_own_loss_resumes_bit_for_bit(tmp_path: Path) -> None:
    recipe = own()
    assert recipe.objective["penalty"] == Penalty.Config(temperature=2.0)

    def run(name: str, stop: int | None = None) -> dict[str, Tensor]:
        train(recipe, RunConfig(storage=str(tmp_path), name=name, device="cpu", stop_after=stop))
        checkpoints = sorted((tmp_path / name / "checkpoints").glob("step-*"))
        state: dict[str, Tensor] = torch.load(checkpoints[-1] / "state.pt", weights_only=True)
        return state["objectives"]

    whole = run("whole")
    assert run("stopped", 3)["penalty.calls"] == 3
    resumed = run("stopped")
    assert whole["penalty.calls"] == 6
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    text = (tmp_path / "stopped" / "recipe.yaml").read_text()
    assert from_yaml(text) == recipe
    with pytest.raises(ValueError, match=r"objective.penalty.temperature: 2.0 there, 3.0 here"):
        train(own(**{"objective.penalty.temperature": 3}), RunConfig(storage=str(tmp_path), name="stopped"))


def test_an_own_optimiser_resumes_bit_for_bit(tmp_path: Path) -> None:
    recipe = own(optimizer={"kind": "test_nadam", "momentum_decay": 1e-2})
    assert recipe.optimizer == NAdamConfig(momentum_decay=1e-2)
    assert state_tensors(recipe.optimizer) == 2

    def run(name: str, stop: int | None = None) -> dict[str, Tensor]:
        result = train(recipe, RunConfig(storage=str(tmp_path), name=name, device="cpu", stop_after=stop))
        return load_file(result.weights) if result.weights else {}

    whole = run("whole")
    assert run("stopped", 3) == {}
    resumed = run("stopped")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert from_yaml((tmp_path / "stopped" / "recipe.yaml").read_text()) == recipe
    other = override(recipe, {"optimizer": "sgd", "optimizer.lr": 0.1})
    assert other.optimizer == SGDConfig(lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer.kind: test_nadam there, sgd here"):
        train(other, RunConfig(storage=str(tmp_path), name="stopped", device="cpu"))


@pytest.mark.parametrize(("config", "tensors"), [(AdamWConfig(), 2), (SGDConfig(), 1), (SGDConfig(momentum=0), 0)])
def test_room_is_kept_for_what_an_optimiser_remembers(config: OptimizerConfig, tensors: int) -> None:
    assert state_tensors(config) == tensors


def test_yaml_says_which_module_has_an_unknown_loss() -> None:
    text = to_yaml(own())
    assert f"kind: test_penalty\n    module: {__name__}\n" in text
    with pytest.raises(ValueError, match=rf"objective.penalty: 'gone' is an objective of the module '{__name__}'"):
        from_yaml(text.replace("kind: test_penalty", "kind: gone"))
    with pytest.raises(ValueError, match=r"kind 'boundary_emphasi'; did you mean boundary_emphasis\? .* is imported"):
        from_yaml(text.replace("kind: boundary_emphasis", "kind: boundary_emphasi"))


def test_files_of_before_kinds_are_read() -> None:
    recipe = named("study:blindnet-baselines/robustnet")
    lines = [line for line in to_yaml(recipe).splitlines() if line.strip() != "kind: cross_entropy"]
    lines[lines.index("objective:") + 1 : 0] = []
    old = "\n".join(lines).replace("objective:\n", "objective:\n  ube: null\n  gap: null\n")
    assert "kind: isw" in old, "the whitening's own field"
    assert from_yaml(old) == recipe


def test_parts_come_and_go_by_name() -> None:
    recipe = override(named("erm-streets"), {"objective.fd": "feature_distance", "objective.fd.weight": "0.1"})
    assert list(recipe.objective) == ["ce", "fd"]
    assert recipe.objective["fd"].weight == 0.1
    assert override(recipe, {"objective.fd": "None"}) == named("erm-streets")
    assert override(recipe, {"objective.fd": CrossEntropy.Config(name="fd")}).objective["fd"].name == "fd"
    assert override(recipe, {"objective.fd.kind": "ce"}).objective["fd"] == CrossEntropy.Config()
    with pytest.raises(ValueError, match=r"objective\.fd is 5; it takes the kind of an objective, or its fields"):
        override(recipe, {"objective.fd": 5})
    with pytest.raises(ValueError, match=r"objective\.ce\.weight: the weight of objective 'ce' must be positive"):
        override(recipe, {"objective.ce.weight": -1})
    with pytest.raises(ValueError, match="objective 'my-loss' has a name that no flag could have"):
        override(recipe, {"objective.my-loss": "ce"})


def test_what_could_not_be_read_back_is_refused_where_it_is_made() -> None:
    class Unregistered(CrossEntropy):
        @dataclass(frozen=True, kw_only=True)
        class Config(CrossEntropy.Config):
            pass

    with pytest.raises(ValueError, match=r'Unregistered.Config is not registered.*@objective\("its_name"\)'):
        to_yaml(own(**{"objective.ube": Unregistered.Config()}))
    with pytest.raises(ValueError, match="is not registered"):
        Unregistered.Config().build(torch.nn.Identity())
    with pytest.raises(TypeError, match="needs a Config of its own"):

        @objective("test_without")
        class Without(CrossEntropy):
            pass

    with pytest.raises(TypeError, match="must be a dataclass"):

        @objective("test_plain")
        class Plain(CrossEntropy):
            class Config(CrossEntropy.Config):
                pass

    with pytest.raises(ValueError, match=r"objective 'ce' is .*CrossEntropy.Config already: take another name"):

        @objective("ce")
        class Second(CrossEntropy):
            @dataclass(frozen=True, kw_only=True)
            class Config(CrossEntropy.Config):
                pass
