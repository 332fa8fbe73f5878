"""Model and objectives as one module: what a strategy wraps for many ranks, so that the gradients of both are meant."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import ORIGINAL, Objectives, StepContext

TARGET = "target"  # the view that the domain to adapt to is; its batch is batch.target


class Learner(nn.Module):
    def __init__(self, model: SegmentationModel, objectives: Objectives) -> None:
        super().__init__()
        self.model = model
        self.objectives = objectives

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Weighted loss terms. Each view passes by itself: batch norms see one distribution at a time."""
        views: Mapping[str, Batch] = {ORIGINAL: batch, **batch.views}
        if batch.target is not None:
            views = {**views, TARGET: batch.target}
        outputs: dict[str, Prediction] = {name: self._predict(view, context) for name, view in views.items()}
        terms: dict[str, Tensor] = self.objectives(outputs, batch, context)
        return terms

    def _predict(self, view: Batch, context: StepContext) -> Any:
        return self.model(view.images, seed=context.seed, step=context.step)
