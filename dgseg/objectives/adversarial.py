"""Output-space adversarial adaptation (AdaptSegNet, CVPR 2018; single level): a discriminator learns to tell the output
maps of the source from those of the target, and the model learns to make the target's look like the source's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.build import build
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import Objective, OwnOptimizer, ParameterGroup, StepContext, objective, weighted
from dgseg.ops import across_ranks
from dgseg.ops.constants import constant

TARGET = "target"  # the view that the domain to adapt to is


@objective("adversarial")
class Adversarial(Objective):
    """The discriminator says, as a logit, that a map comes from the source."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        weight: float = 1e-3
        """λ_adv, of the model's term; the discriminator's has the weight 1"""
        lr: float = 1e-4
        """of the discriminator's own Adam"""
        betas: tuple[float, float] = (0.9, 0.99)
        power: float | None = 0.9
        """of its polynomial decay; None: the run's schedule"""
        width: int = 64
        """channels of the discriminator's first layer"""
        name: str = "adversarial"

    config: Config

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__(config, model)
        self.discriminator: nn.Module = build("discriminator", model.num_classes, width=config.width)

    def parameter_groups(self) -> list[ParameterGroup]:
        config, parameters = self.config, list(self.discriminator.parameters())
        own = OwnOptimizer(config.lr, config.betas, power=config.power)
        return [ParameterGroup(f"{self.name}.discriminator", parameters, 1.0, own)]

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        if batch.target is None or TARGET not in outputs:
            raise ValueError(
                f"objective {self.name!r} adapts to a target, and the batch has none: say in data.target which domain"
            )
        source = _probabilities(self.prediction(outputs), batch)
        target = _probabilities(outputs[TARGET], batch.target)
        # One backward pass serves both: the model's term does not reach the discriminator's parameters, and the
        # discriminator's terms do not reach the model.
        fixed: dict[str, Any] = {key: value.detach() for key, value in self.discriminator.named_parameters()}
        verdicts = [
            functional_call(self.discriminator, fixed, (target,)),
            self.discriminator(source.detach()),
            self.discriminator(target.detach()),
        ]
        fooled, from_source, from_target = _cross_entropies(verdicts, [True, True, False], context)
        discriminator = (from_source + from_target) / 2
        self._metrics = {
            "unweighted": fooled.detach(),
            "discriminator": discriminator.detach(),
            "source_verdict": verdicts[1].detach().float().sigmoid().mean(),
            "target_verdict": verdicts[2].detach().float().sigmoid().mean(),
        }
        return {self.name: weighted(fooled, self.config.weight), f"{self.name}/discriminator": discriminator}


def _probabilities(prediction: Prediction, batch: Batch) -> Tensor:
    """At the resolution of the images, the one place where a loss upsamples: the discriminator looks at outlines."""
    logits = prediction.logits
    logits = logits if logits.dtype == torch.float64 else logits.float()
    size = batch.images.shape[-2:]
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).softmax(1)


def _cross_entropies(verdicts: list[Tensor], is_source: list[bool], context: StepContext) -> Tensor:
    """Binary cross-entropy of each verdict, a mean over the places of the global batch."""
    sums, counts = [], []
    for verdict, truth in zip(verdicts, is_source, strict=True):
        logits = verdict if verdict.dtype == torch.float64 else verdict.float()
        # -log sigmoid(x) where it is the source, -log sigmoid(-x) where it is not
        sums.append(F.softplus(-logits if truth else logits).sum())
        counts.append(logits.numel())
    return across_ranks.mean(torch.stack(sums), constant(counts, sums[0].device), context.group)
