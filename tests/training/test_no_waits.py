"""No step of any recipe copies from the host to its device, or waits for what the device will say.

Each of them stops the host until the device has done all that was queued: it cannot prepare the next step meanwhile.
The steps here run on the meta device, where no values exist: asking for one is an error, and every operator is seen."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dgseg.data.augment.pipeline import AUGMENTED
from dgseg.data.sample import Batch
from dgseg.models import build
from dgseg.objectives import Objectives, StepContext, feature_distance
from dgseg.ops.constants import constant
from dgseg.recipes import RECIPES, named
from dgseg.training import exchange
from dgseg.training.learner import Learner
from dgseg.training.recipe import Recipe
from dgseg.training.saver import _finite
from dgseg.training.world import World

META = torch.device("meta")
SIZE = 128
MATCHED = "masks"  # Mask2Former's targets are cut and matched by value: that objective has no meta step
SMALL = ("flexseg-streets", "blindnet-streets", "realtime-streets")


class Copies(TorchDispatchMode):
    """Operators that take values from one device to another. One value is passed along with a launch."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.name().partition(".")[0]
        tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]
        copies = name in ("aten::_to_copy", "aten::copy_")
        if len({each.device.type for each in tensors if each.dim() or copies}) > 1:
            self.found.append(name)
        return result


class Constructions(TorchFunctionMode):
    """Tensors of a device that are made from numbers of the host; no operator shows them."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor) and result.is_meta and not isinstance(args[0], Tensor):
            self.found.append(f"torch.{function.__name__}")
        return result


@contextlib.contextmanager
def crossings() -> Iterator[list[str]]:
    found: list[str] = []
    with Copies(found), Constructions(found):
        yield found


def batch(images: int, *, labels: bool = True, views: tuple[str, ...] = (), target: int = 0) -> Batch:
    numbers = torch.empty(images, dtype=torch.int64, device=META)
    return Batch(
        torch.empty(images, 3, SIZE, SIZE, dtype=torch.uint8, device=META),
        torch.empty(images, SIZE, SIZE, dtype=torch.uint8, device=META) if labels else None,
        [str(i) for i in range(images)],
        numbers,
        numbers,
        numbers,
        views={name: batch(images) for name in views},
        target=batch(target, labels=False) if target else None,
    )


def step(recipe: Recipe) -> list[str]:
    """A step of a recipe up to the gradients and what the ranks tell each other, as the loop does it."""
    config = recipe.model
    with META:
        model = build(config.name, config.num_classes, False, **config.options)
        objectives = Objectives({name: each.build(model) for name, each in recipe.objective.items()})
    layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    learner = Learner(model, objectives, layout).to(META).train()
    two_views = any("augmented" in repr(each) for each in (recipe.objective, recipe.data))
    images = batch(2, views=(AUGMENTED,) if two_views else (), target=2 if recipe.data.target else 0)
    with crossings() as found:
        terms = learner(images, StepContext(0, recipe.schedule.steps))
        torch.stack(list(terms.values())).sum().backward()
        exchange.start(World(0, 1, 0, META, None), 0, terms, False, [], images.indices, objectives.image_losses())
    return found


def unlike() -> list[Any]:
    """A name for every kind of step: recipes that differ in size, data or numbers alone take the same one."""
    kinds: dict[str, str] = {repr((named(name).model.name, sorted(named(name).objective))): name for name in SMALL}
    for name in RECIPES:
        recipe = named(name)
        if MATCHED not in recipe.objective:
            kinds.setdefault(repr((recipe.model.name, sorted(recipe.objective))), name)
    return [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in kinds.values()]


@pytest.mark.parametrize("name", unlike())
def test_a_step_copies_nothing_and_waits_for_nothing(name, monkeypatch):
    monkeypatch.setattr(feature_distance, "build", lambda name, classes, pretrained: build(name, classes, False))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # meta has no type of its own
    assert not step(named(name))


def test_crossings_are_seen():
    with crossings() as found:
        torch.tensor([1.0, 2.0], device=META)
        torch.zeros(3).to(META)
        constant([1.0, 2.0], META) + constant(3, META)
    assert found == ["torch.tensor", "aten::_to_copy"]
    with pytest.raises(RuntimeError, match="meta"):
        float(constant(1.0, META))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_look_at_all_weights(bad):
    weights = {"a": torch.full((3, 2), 3e38), "b": torch.ones(4, dtype=torch.bfloat16), "steps": torch.tensor(7)}
    assert _finite(weights)
    assert _finite({"steps": torch.tensor(7), "none": torch.empty(0)})
    assert not _finite(weights | {"c": torch.tensor([1.0, bad])})
    assert not _finite(weights | {"c": torch.tensor([1.0, bad], dtype=torch.float64)})
