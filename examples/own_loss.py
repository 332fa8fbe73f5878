"""A loss of your own in a run: one class, one changed field. Stopped and started again, the run resumes with it."""

import argparse
from dataclasses import dataclass

from dgseg.objectives import Objective, objective
from dgseg.recipes import named, override
from dgseg.training import Progress, RunConfig, train

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--storage", default="runs")
arguments = parser.parse_args()


@objective("confidence_penalty")
class ConfidencePenalty(Objective):
    """Keeps predictions from being too sure."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        weight: float = 0.1
        temperature: float = 1.0

    config: Config

    def forward(self, outputs, batch, context):
        log_p = (self.prediction(outputs).logits / self.config.temperature).log_softmax(1)
        loss = (log_p.exp() * log_p).sum(1).mean()
        self._metrics = {"unweighted": loss.detach()}
        return {self.name: self.config.weight * loss}


changes = {"objective.penalty": {"kind": "confidence_penalty", "temperature": 2.0}, "schedule.steps": arguments.steps}
changes |= {"data.validation": [], "data.test": []}  # only to be quick
recipe = override(named("flexseg-streets"), changes)
result = train(recipe, RunConfig(name="penalty", storage=arguments.storage), listeners=[Progress()])
print(f"{result.status} after step {result.step}")
