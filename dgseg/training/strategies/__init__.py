"""How workers share a model: alone, DDP, FSDP2, DeepSpeed. base.py says what the loop asks of each."""

from dgseg.training.learner import Learner
from dgseg.training.recipe import Recipe
from dgseg.training.run import RunConfig
from dgseg.training.strategies.base import Strategy
from dgseg.training.world import World

__all__ = ["Strategy", "build"]


def build(learner: Learner, recipe: Recipe, run: RunConfig, world: World) -> Strategy:
    """The learner is on its device, in its dtype, with its batch norms converted."""
    name = run.strategy
    if name == "auto":
        name = "single" if world.group is None else "ddp"
    if run.deepspeed is not None and name != "deepspeed":
        raise ValueError(f"a DeepSpeed configuration needs the strategy deepspeed; it is {name!r}")
    if name == "single":
        if world.group is not None:
            raise ValueError(f"the strategy single is for one worker, and there are {world.size}: use ddp or fsdp")
        return Strategy(learner, recipe, world)
    if world.group is None and name in ("ddp", "fsdp"):
        raise ValueError(f"the strategy {name} needs several workers, and this is one: use single or auto")
    if name == "ddp":
        from dgseg.training.strategies.ddp import DataParallel

        return DataParallel(learner, recipe, world)
    if name == "fsdp":
        from dgseg.training.strategies.fsdp import FullySharded

        return FullySharded(learner, recipe, world)
    if name == "deepspeed":
        from dgseg.training.strategies.deepspeed import DeepSpeed

        return DeepSpeed(learner, recipe, run, world)
    raise ValueError(f"no strategy {name!r}: auto, single, ddp, fsdp, deepspeed")
