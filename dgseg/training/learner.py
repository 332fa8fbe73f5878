"""Model and objectives as one module: what a strategy wraps for many ranks, so that the gradients of both are meant."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.objectives.adversarial import TARGET
from dgseg.objectives.base import ORIGINAL, Objectives, StepContext


class Learner(nn.Module):
    def __init__(
        self,
        model: SegmentationModel,
        objectives: Objectives,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=memory_format)
        self.objectives = objectives
        self.memory_format = memory_format

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """Weighted loss terms. Each view passes by itself: batch norms see one distribution at a time."""
        views: Mapping[str, Batch] = {ORIGINAL: batch, **batch.views}
        if batch.target is not None:
            views = {**views, TARGET: batch.target}
        outputs: dict[str, Prediction] = {name: self._predict(view, context) for name, view in views.items()}
        terms: dict[str, Tensor] = self.objectives(outputs, batch, context)
        return terms

    def _predict(self, view: Batch, context: StepContext) -> Any:
        images = view.images.contiguous(memory_format=self.memory_format)
        return self.model(images, seed=context.seed, step=context.step)
