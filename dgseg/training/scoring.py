"""Scores of a run: on data.validation while it trains, on data.test when it is over."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from dgseg.data import Dataset, from_spec
from dgseg.evaluation import Evaluation, Seeing, evaluate, predicted_labels
from dgseg.evaluation.evaluate import check
from dgseg.evaluation.pictures import Example, panel
from dgseg.evaluation.protocols import protocol_named
from dgseg.models.base import SegmentationModel
from dgseg.training.listener import ScoreReport
from dgseg.training.recipe import Recipe
from dgseg.training.strategies import Strategy
from dgseg.training.world import World


class Scoring:
    def __init__(self, recipe: Recipe, world: World) -> None:
        data = recipe.data
        self.recipe, self.world = recipe, world
        self.protocol = protocol_named(data.protocol, recipe.model.name)
        self.datasets = {
            "validation": [from_spec(spec) for spec in data.validation],
            "test": [from_spec(spec) for spec in data.test],
        }
        for datasets in filter(None, self.datasets.values()):  # before the first step, not after the last
            check(datasets, self.protocol, batch_size=data.test_batch, workers=data.loaders, extras=())

    def validation(self, strategy: Strategy, step: int) -> ScoreReport:
        with strategy.scored_model() as model:
            found = self._evaluate(model, self.datasets["validation"])
        mean = float(np.mean([each.scores.miou for each in found.domains.values()]))
        return ScoreReport(step, False, _named(found), {"validation": mean})

    def test(self, model: SegmentationModel, step: int, place: Path) -> ScoreReport:
        shown: dict[str, Example] = {}

        def keep(seen: Seeing) -> None:
            if seen.index == 0:  # the first image of every data set
                shown[seen.domain] = _example(seen)

        found = self._evaluate(model, self.datasets["test"], keep)
        everybody = [shown]
        if self.world.group is not None:
            everybody = [{} for _ in range(self.world.size)]
            dist.all_gather_object(everybody, shown, group=self.world.group)
        pictures = {}
        if self.world.first:
            pictures["panel"] = place / "panel.png"
            all_shown = {domain: example for each in everybody for domain, example in each.items()}
            panel([all_shown[domain] for domain in found.domains if domain in all_shown]).save(pictures["panel"])
        return ScoreReport(step, True, _named(found), found.averages(), pictures)

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


def _named(found: Evaluation) -> dict[str, dict[str, float]]:
    return {domain: result.named_scores() for domain, result in found.domains.items()}
