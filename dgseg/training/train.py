"""A recipe, trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from dgseg.training.listener import Listener, ScoreReport
from dgseg.training.recipe import Recipe
from dgseg.training.run import RunConfig
from dgseg.training.world import World


@dataclass(frozen=True)
class RunResult:
    status: str  # "finished", or "stopped": the same name goes on
    step: int
    folder: str  # of the run in the storage
    weights: str | None  # the final weights, when finished
    scores: ScoreReport | None  # on data.test, when finished


def train(
    recipe: Recipe, run: RunConfig, *, listeners: Sequence[Listener] = (), world: World | None = None
) -> RunResult:
    """In this process, as one of `world`; None: whatever torchrun's variables or an existing process group say."""
    raise NotImplementedError
