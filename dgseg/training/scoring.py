"""Scores of a run: on data.validation while it trains, on data.test when it is over."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dgseg.data import Dataset, from_spec
from dgseg.evaluation import Evaluation, Seeing, evaluate, predicted_labels
from dgseg.evaluation.evaluate import check
from dgseg.evaluation.pictures import Example, panel
from dgseg.evaluation.protocols import protocol_named
from dgseg.models.base import SegmentationModel
from dgseg.training.listener import Listener, ScoreReport
from dgseg.training.recipe import Recipe
from dgseg.training.strategies import Strategy
from dgseg.training.world import World


class Scoring:
    def __init__(self, recipe: Recipe, world: World, listener: Listener) -> None:
        data = recipe.data
        self.recipe, self.world, self.listener = recipe, world, listener
        self.protocol = protocol_named(data.protocol, recipe.model.name)
        self.datasets = {
            "validation": [from_spec(spec) for spec in data.validation],
            "test": [from_spec(spec) for spec in data.test],
        }
        for datasets in filter(None, self.datasets.values()):  # before the first step, not after the last
            check(datasets, self.protocol, batch_size=data.test_batch, workers=data.loaders, extras=())

    def validate(self, strategy: Strategy, step: int) -> float | None:
        """The score that selects the best checkpoint; None where none is due at this step."""
        every = self.recipe.train.evaluate_every
        due = step >= self.recipe.schedule.steps or (every is not None and step % every == 0)
        if not due or not self.datasets["validation"]:
            return None
        with strategy.scored_model() as model:
            evaluation = self._evaluate(model, self.datasets["validation"])
        score = float(np.mean([each.scores.miou for each in evaluation.domains.values()]))
        self.listener.on_scores(ScoreReport(step, False, _named(evaluation), {"validation": score}))
        return score

    def test(self, model: SegmentationModel, step: int, folder: Path) -> ScoreReport | None:
        """Pictures go to the folder. None where there is no data.test."""
        if not self.datasets["test"]:
            return None
        examples: dict[str, Example] = {}

        def keep(seen: Seeing) -> None:
            if seen.index == 0:  # the first image of every data set
                examples[seen.domain] = _example(seen)

        evaluation = self._evaluate(model, self.datasets["test"], keep)
        examples = {domain: each for rank in self.world.gather(examples) for domain, each in rank.items()}
        pictures = {}
        if self.world.first:
            pictures["panel"] = folder / "panel.png"
            panel([examples[domain] for domain in evaluation.domains if domain in examples]).save(pictures["panel"])
        report = ScoreReport(step, True, _named(evaluation), evaluation.averages(), pictures)
        self.listener.on_scores(report)
        return report

    def _evaluate(
        self,
        model: SegmentationModel,
        datasets: Sequence[Dataset],
        on_image: Callable[[Seeing], None] | None = None,
    ) -> Evaluation:
        return evaluate(
            model,
            datasets,
            self.protocol,
            batch_size=self.recipe.data.test_batch,
            workers=self.recipe.data.loaders,
            device=self.world.device,
            group=self.world.group,
            on_image=on_image,
        )


def _example(seen: Seeing) -> Example:
    size = (seen.label.shape[0], seen.label.shape[1])
    labels = predicted_labels(seen.logits[None], size)[0]
    picture = F.interpolate(seen.image[None], size, mode="nearest")[0].permute(1, 2, 0)
    return Example(
        picture.cpu().numpy(),
        seen.label.cpu().numpy(),
        {"prediction": labels.to(torch.uint8).cpu().numpy()},
        caption=seen.domain,
    )


def _named(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    return {domain: result.named_scores() for domain, result in evaluation.domains.items()}
