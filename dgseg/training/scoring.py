"""Scores of a run: on data.validation while it trains, on data.test when it is over."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image

from dgseg.data import Dataset, from_spec
from dgseg.data.labels import CLASSES
from dgseg.evaluation import Evaluation, evaluate
from dgseg.evaluation.pictures import Example, panel
from dgseg.evaluation.protocols import protocol_named
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_logits
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

    def validation(self, strategy: Strategy, step: int) -> ScoreReport:
        with strategy.scored_model() as model:
            found = self._evaluate(model, self.datasets["validation"])
        mean = float(np.mean([each.scores.miou for each in found.domains.values()]))
        return ScoreReport(step, False, _tables(found), {"validation": mean})

    def test(self, model: SegmentationModel, step: int, place: Path) -> ScoreReport:
        found = self._evaluate(model, self.datasets["test"])
        pictures = {}
        if self.world.first:
            pictures["panel"] = place / "panel.png"
            self._panel(model).save(pictures["panel"])
        return ScoreReport(step, True, _tables(found), found.averages(), pictures)

    def _evaluate(self, model: SegmentationModel, datasets: Sequence[Dataset]) -> Evaluation:
        return evaluate(
            model,
            datasets,
            self.protocol,
            batch_size=self.recipe.data.test_batch,
            workers=self.recipe.data.loaders,
            device=self.world.device,
            group=self.world.group,
        )

    @torch.inference_mode()
    def _panel(self, model: SegmentationModel) -> Image:
        """The first image of every domain."""
        examples = []
        was_training = model.training
        model.eval()
        for dataset in self.datasets["test"]:
            sample = dataset[0]
            assert sample.label is not None, "it has been scored"
            image = sample.image[None].to(self.world.device)
            shown = self.protocol.image_size(dataset.name, (image.shape[2], image.shape[3]))
            if shown != image.shape[2:]:
                image = F.interpolate(image.float(), shown, mode="bilinear", antialias=True).round().to(torch.uint8)
            logits = predict_logits(
                model,
                image,
                window=self.protocol.window,
                stride=self.protocol.stride,
                size=(sample.label.shape[0], sample.label.shape[1]),
            )
            picture = F.interpolate(image, sample.label.shape, mode="nearest")[0].permute(1, 2, 0)
            labels = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
            example = Example(
                picture.cpu().numpy(), sample.label.numpy(), {"prediction": labels}, caption=dataset.domain
            )
            examples.append(example)
        model.train(was_training)
        return panel(examples)


def _tables(found: Evaluation) -> dict[str, dict[str, float]]:
    tables = {}
    for domain, result in found.domains.items():
        scores = result.scores
        tables[domain] = {
            "miou": scores.miou,
            "macc": scores.macc,
            "pixel_accuracy": scores.pixel_accuracy,
            **{f"iou/{CLASSES[c]}": float(iou) for c, iou in zip(scores.classes, scores.iou, strict=True)},
        }
    return tables
