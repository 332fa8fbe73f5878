"""The number of workers is not a hyperparameter: two of them, under every strategy, train what one alone does."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dgseg.training.recipe import SGDConfig
from tests.models.harness import TINY
from tests.training.harness import RECORDED, Record, in_processes, tiny

# Twenty steps with warm-up and a hardness window of 5, so that draws react to losses within them; nothing in this model
# drops out. Scores are another matter.
PROOF = {"data.validation": [], "data.test": [], "train.save_every": 100}
FLOAT64 = {"train.precision": "float64"}
# AdamW divides rounding noise by itself where a gradient is zero, and large steps from random weights multiply it: in
# float32 such runs tell nothing after a few steps, whoever makes them.
FLOAT32 = {"optimizer": SGDConfig(lr=1e-5)}
ACCUMULATED = FLOAT64 | {"train.accumulate": 2, "train.clip": 1.0, "train.ema": 0.9}
DDP, FSDP = {"strategy": "ddp"}, {"strategy": "fsdp"}
EACH = RECORDED + "answer = [recorded(recipe, storage, str(n), **run) for n, (recipe, run) in enumerate(runs)]\n"


def run(processes: int, storage: Path, *runs: tuple[Mapping[str, object], Mapping[str, object]]) -> list[list[Record]]:
    """[run][rank]"""
    made = [(tiny(PROOF | dict(changes)), dict(config)) for changes, config in runs]
    by_rank = in_processes(processes, EACH, storage=str(storage), runs=made)
    return [[rank[number] for rank in by_rank] for number in range(len(runs))]


def samples(ranks: list[Record]) -> list[list[str]]:
    return [[each for rank in step for each in rank] for step in zip(*(record.ids for record in ranks), strict=True)]


def furthest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def furthest_loss(a: Record, b: Record) -> float:
    """Relative, of terms above 1: of a loss of ten float32 knows six digits behind the point."""
    assert len(a.losses) == len(b.losses) == 20
    pairs = [(one[name], other[name]) for one, other in zip(a.losses, b.losses, strict=True) for name in one]
    return max(abs(x - y) / max(1.0, abs(y)) for x, y in pairs)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    found = run(
        1,
        tmp_path_factory.mktemp("alone"),
        (FLOAT64, {}),
        (FLOAT32, {}),
        (ACCUMULATED, {}),
    )
    return dict(zip(("float64", "float32", "accumulated"), (ranks[0] for ranks in found), strict=True))


def test_two_workers_train_what_one_does(alone: dict[str, Record], tmp_path: Path) -> None:
    ddp, fsdp, both, sharded = run(
        2,
        tmp_path,
        (FLOAT64, DDP),
        (FLOAT64, FSDP),
        (ACCUMULATED, DDP),
        (ACCUMULATED, FSDP),
    )
    for found, expected in ((ddp, "float64"), (fsdp, "float64"), (both, "accumulated"), (sharded, "accumulated")):
        one = alone[expected]
        assert one.weights
        assert found[0].weights
        assert furthest(found[0].weights, one.weights) < 1e-9
        assert furthest_loss(found[0], one) < 1e-9
        if expected == "float64":
            assert samples(found) == one.ids
        else:
            assert [sorted(step) for step in samples(found)] == [sorted(step) for step in one.ids]


def zero(stage: int, folder: Path) -> dict[str, str]:
    config = folder / f"zero{stage}.json"
    config.write_text(
        f'{{"zero_optimization": {{"stage": {stage}}}, "zero_allow_untested_optimizer": true, '
        '"train_batch_size": "auto", "steps_per_print": 1000000}'
    )
    return {"strategy": "deepspeed", "deepspeed": str(config)}


@pytest.mark.parametrize("stages", [(3,), pytest.param((0, 1, 2), marks=pytest.mark.slow)], ids=str)
def test_deepspeed_trains_what_one_does(alone: dict[str, Record], tmp_path: Path, stages: tuple[int, ...]) -> None:
    one = alone["float32"]
    configs = [zero(stage, tmp_path) for stage in stages]
    for stage, found in zip(stages, run(2, tmp_path, *((FLOAT32, config) for config in configs)), strict=True):
        assert furthest_loss(found[0], one) < 1e-5, f"ZeRO {stage}"
        assert samples(found) == one.ids
        assert one.weights
        assert found[0].weights
        assert furthest(found[0].weights, one.weights) < 1e-4


def test_float32_losses_of_two_workers(alone: dict[str, Record], tmp_path: Path) -> None:
    for found in run(2, tmp_path, (FLOAT32, DDP), (FLOAT32, FSDP)):
        assert furthest_loss(found[0], alone["float32"]) < 1e-5
        assert samples(found) == alone["float32"].ids


STOPPED = (
    RECORDED
    + """
import os
answer = []
for name, config in configs.items():
    whole = recorded(recipe, os.path.join(storage, "whole"), name, **config)
    first = recorded(recipe, os.path.join(storage, "parts"), name, stop_after=3, **config)
    second = recorded(recipe, os.path.join(storage, "parts"), name, **config)
    answer.append((whole, first, second))
"""
)


def test_what_a_stopped_run_of_two_goes_on_to_is_what_it_would_have_been(tmp_path: Path) -> None:
    """Under every strategy, with AdamW's state cut into whatever pieces the strategy cuts it: the same bits."""
    configs = {"ddp": DDP, "fsdp": FSDP} | {f"zero{stage}": zero(stage, tmp_path) for stage in (2, 3)}
    recipe = tiny(PROOF | {"schedule.steps": 6})
    ranks = in_processes(2, STOPPED, storage=str(tmp_path), recipe=recipe, configs=configs)
    for rank in ranks:
        for name, (whole, first, second) in zip(configs, rank, strict=True):
            assert (first.status, first.step, second.status) == ("stopped", 3, "finished"), name
            assert first.ids + second.ids == whole.ids, name
            assert first.losses + second.losses == whole.losses, name
    for name, (whole, _, second) in zip(configs, ranks[0], strict=True):
        assert whole.weights, name
        assert second.weights, name
        assert all(torch.equal(whole.weights[key], second.weights[key]) for key in whole.weights), name


@pytest.mark.slow
def test_four_workers_train_what_one_does(alone: dict[str, Record], tmp_path: Path) -> None:
    for found in run(4, tmp_path, (FLOAT64, DDP), (FLOAT64, FSDP)):
        one = alone["float64"]
        assert one.weights
        assert found[0].weights
        assert furthest(found[0].weights, one.weights) < 1e-9
        assert samples(found) == one.ids


def test_the_proof_is_sensitive(alone: dict[str, Record], tmp_path: Path) -> None:
    """Batch norms that look at their own half are found out."""
    torch.manual_seed(0)
    (found,) = run(2, tmp_path, (FLOAT64 | {"train.sync_batch_norm": False}, DDP))
    one = alone["float64"]
    assert one.weights
    assert found[0].weights
    assert furthest(found[0].weights, one.weights) > 1e-3


EVERY_PART = "from dgseg.training.strategies import fsdp\nfsdp.SMALLEST = 1\n" + EACH


@pytest.mark.parametrize("name", ["mask2former_r50", "vit_small_dinov2"])
def test_models_whose_parts_are_called_one_by_one(tmp_path: Path, name: str) -> None:
    """Their lists hold modules without a call of their own, and each small part is cut by itself."""
    options = {key: value for key, value in TINY[name].options.items() if key != "uncertainty"}
    crop = [56, 56] if name.startswith("vit") else [64, 96]
    model = {"model.name": name, "model.options": options, "data.augment.crop": crop, "schedule.steps": 2}
    recipe = tiny(PROOF | FLOAT64 | model, "erm-streets")
    (alone,) = in_processes(1, EVERY_PART, storage=str(tmp_path / "alone"), runs=[(recipe, {})])[0]
    ddp, fsdp = in_processes(2, EVERY_PART, storage=str(tmp_path / "two"), runs=[(recipe, DDP), (recipe, FSDP)])[0]
    assert alone.weights
    for two in (ddp, fsdp):
        assert two.weights
        assert furthest(two.weights, alone.weights) < 1e-9
