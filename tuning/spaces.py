"""What a sweep searches: the recipe's field, from where to where, and why it is worth a trial.

A recipe is searched over those of the fields that it has; --search names others than the usual four.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from dgseg.runs.sweep.space import Parameter, parameter
from dgseg.training.recipe import Recipe


def spaces(recipe: Recipe) -> list[Parameter]:
    rate = recipe.optimizer.lr
    hardness = recipe.sampler.hardness
    updates = recipe.schedule.steps / hardness.window if hardness else 1.0
    found = [
        parameter(
            recipe,
            "objective.ube.alpha",
            FloatDistribution(0.5, 12.0, log=True),
            "How much more a boundary pixel weighs: below 1 it hardly does, beyond 10 little else is learnt.",
        ),
        parameter(
            recipe,
            "objective.gap.temperature",
            FloatDistribution(0.03, 0.3, log=True),
            "τ decides whether the nearest wrong prototypes repel a pixel alone (low), or all alike (high).",
        ),
        parameter(
            recipe,
            "objective.gap.weight",
            FloatDistribution(0.05, 2.0, log=True),
            "λ_gap sets contrast against cross-entropy, whose sizes differ with the number of classes and τ.",
        ),
        parameter(
            recipe,
            "sampler.hardness.steepness",
            FloatDistribution(0.005, 0.5, log=True),
            "k turns the change from random draws to hard ones into a slope over the whole run (low) or a step (high).",
        ),
        parameter(
            recipe,
            "sampler.hardness.midpoint",
            FloatDistribution(0.2 * updates, 0.8 * updates),
            "When half of the draws are by loss: too early, the losses are still noise; too late, it changes nothing.",
            default=_half(hardness.midpoint if hardness else None, updates),
            usual=False,
        ),
        parameter(
            recipe,
            "sampler.hardness.temperature",
            FloatDistribution(0.1, 3.0, log=True),
            "τ_HAS: at 1 a softmax over losses is nearly flat, at 0.1 a few images are all that is drawn.",
            usual=False,
        ),
        parameter(
            recipe,
            "objective.gap.radii",
            CategoricalDistribution(["[1, 2, 4]", "[1, 3, 6]", "[2, 4, 8]", "[1, 2, 3]"]),
            "The bands should be as wide as images stray from their labels, which differs with size and generator.",
            usual=False,
        ),
        parameter(
            recipe,
            "optimizer.lr",
            FloatDistribution(rate / 4, rate * 4, log=True),
            "Losses that are added change the gradient's size, so the best rate of the baseline need not stay best.",
            usual=False,
        ),
    ]
    return [each for each in found if each is not None]


def _half(midpoint: float | None, updates: float) -> float:
    return updates / 2 if midpoint is None else midpoint
