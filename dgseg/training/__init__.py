"""A recipe trained: the loop, precision, strategies for many ranks, checkpoints. Knows no Ray and no MLflow.

recipe, run       what is trained; where and how
train             a run from start or resumption to its end: the place to begin reading
assemble          a recipe's parts, made
loop, exchange    a step; what the ranks tell each other about it
strategies/       how workers share a model
checkpoint, storage, lock      what survives
scoring, listener, progress, journal      what is told, and to whom
yaml              recipes as text, fields by dotted name
"""

from dgseg.training.journal import Journal
from dgseg.training.learner import Learner
from dgseg.training.listener import Listener
from dgseg.training.loop import NonFiniteLoss
from dgseg.training.progress import Progress
from dgseg.training.recipe import Recipe
from dgseg.training.run import RunConfig
from dgseg.training.train import RunResult, train
from dgseg.training.world import World, join

__all__ = [
    "Journal",
    "Learner",
    "Listener",
    "NonFiniteLoss",
    "Progress",
    "Recipe",
    "RunConfig",
    "RunResult",
    "World",
    "join",
    "train",
]
