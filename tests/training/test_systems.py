"""The other systems on the same loop: two workers train what one does, and a stopped run goes on to the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dgseg.models import save_weights
from dgseg.recipes import override
from dgseg.training import RunConfig, train
from dgseg.training.assemble import model
from dgseg.training.recipe import Recipe, SGDConfig
from tests.models.harness import TINY
from tests.training.harness import RECORDED, in_processes, tiny
from tests.training.test_strategies import furthest, samples

LEAN = {"data.validation": [], "data.test": [], "schedule.steps": 6, "schedule.warmup": 2}
SYSTEMS: dict[str, dict[str, Any]] = {
    "blindnet-streets": {"objective.contrast.dim": 16, "objective.contrast.samples": 2},
    "realtime-streets": {
        "data.target.source": "streets=fog@train,use=adaptation,size=64x96,length=20",
        "data.target.batch_size": 4,
        "data.target.augment.size": [48, 64],
        "data.augment.size": [48, 64],
        "data.augment.crop": 0.5,
        "objective.adversarial.width": 4,
    },
    "detect-streets-stage2": {
        "data.sources": ["streets_pairs=game@train,size=64x96,length=40"],
        "data.augment.crop": [64, 96],
    },
    "study:detection/semantic-stage1": {
        "data.sources": ["streets_pairs=game@train,size=64x96,length=40,shift=semantic"],
        "data.augment.crop": [64, 96],
    },
}

# Whose losses are float32: test_strategies.py has its two workers, weight by weight.
IN_FLOAT32: dict[str, dict[str, Any]] = {
    "detect-streets-start --model.family mask2former": {
        "model.options": TINY["mask2former_r50"].options | {"uncertainty": False},
        "data.augment.crop": [64, 96],
    },
}

# Two workers of one image, where torch's instance norms are at their weakest.
ONE_IMAGE_EACH: dict[str, dict[str, Any]] = {
    "study:blindnet-baselines/ibn": {
        "data.sources": ["streets=game@train,size=64x96,length=40"],
        "data.batch_size": 2,
        "data.augment.crop": [64, 96],
        "model.name": "deeplabv3plus_mobilenetv2",
        "model.pretrained": False,
        "model.options": {"instance_norms": "ibn", "aux_dropout": 0.0},
        # Batch norms over two pooled values multiply rounding tenfold a step.
        "schedule.steps": 2,
        "schedule.warmup": 0,
        "optimizer": SGDConfig(lr=1e-6),
    },
}

# The second stage trains what the first does, and more.
FIRST_STAGE = pytest.param("study:detection/semantic-stage1", marks=pytest.mark.slow)


def begun(changes: dict[str, Any], name: str, place: Path) -> Recipe:
    """With random weights to begin with, where a recipe trains a part alone."""
    recipe = tiny(changes, name)
    if not recipe.model.trainable:
        return recipe
    torch.manual_seed(7)
    weights = place / "start.safetensors"
    save_weights(model(recipe.model), weights)
    return override(recipe, {"model.weights": str(weights)})


@pytest.mark.parametrize("name", [*(name for name in SYSTEMS if "stage1" not in name), FIRST_STAGE, *ONE_IMAGE_EACH])
def test_two_workers_train_what_one_does(tmp_path: Path, name: str) -> None:
    # A rate at which rounding stays rounding: batch norms over four small images multiply it.
    gentle = {"train.precision": "float64", "optimizer": SGDConfig(lr=1e-4)}
    recipe = begun(LEAN | gentle | (SYSTEMS | ONE_IMAGE_EACH)[name], name, tmp_path)
    body = RECORDED + "answer = recorded(recipe, storage)\n"
    (alone,) = in_processes(1, body, recipe=recipe, storage=str(tmp_path / "one"))
    ranks = in_processes(2, body, recipe=recipe, storage=str(tmp_path / "two"))
    assert samples(ranks) == alone.ids
    assert alone.weights
    assert ranks[0].weights
    assert furthest(ranks[0].weights, alone.weights) < 1e-9
    for one, two in zip(alone.losses, ranks[0].losses, strict=True):
        assert one == pytest.approx(two, rel=1e-9)


@pytest.mark.parametrize("name", [*SYSTEMS, *IN_FLOAT32])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, name: str) -> None:
    """Several optimisers, banks, heads and discriminators included."""
    recipe = begun(LEAN | (SYSTEMS | IN_FLOAT32)[name], name, tmp_path)

    def run(storage: str, stop: int | None) -> dict[str, torch.Tensor]:
        result = train(recipe, RunConfig(storage=str(tmp_path / storage), device="cpu", stop_after=stop))
        return load_file(result.weights) if result.weights else {}

    whole = run("whole", None)
    assert run("parts", 3) == {}
    parts = run("parts", None)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_discriminator_learns_and_is_saved(tmp_path: Path) -> None:
    name = "realtime-streets"
    train(tiny(LEAN | SYSTEMS[name], name), RunConfig(storage=str(tmp_path), device="cpu", stop_after=3))
    (place,) = (tmp_path / name / "checkpoints").glob("step-*")
    state = torch.load(place / "state.pt", weights_only=True)
    assert set(state["optimizers"]) == {"main", "adversarial.discriminator"}
    moments = state["optimizers"]["adversarial.discriminator"]["state"]
    assert moments
    assert all(float(each["exp_avg"].abs().max()) > 0 for each in moments.values())
