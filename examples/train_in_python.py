"""A run in Python: a recipe, two changed fields, a listener of your own; started again, it resumes."""

import argparse

from dgseg.recipes import named, override
from dgseg.training import Listener, Progress, RunConfig, train
from dgseg.training.listener import StepReport

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--storage", default="runs")
arguments = parser.parse_args()


class LowestLoss(Listener):
    lowest = float("inf")

    def on_step(self, report: StepReport) -> None:
        self.lowest = min(self.lowest, report.losses["loss"])


domain = "size=192x384,length=20"
recipe = override(
    named("flexseg-streets"),
    {
        "objective.ube.alpha": 5,
        "schedule.steps": arguments.steps,
        "data.validation": [f"streets=dusk@val,{domain}"],
        "data.test": [f"streets=fog@test,{domain}", f"streets=night@test,{domain}"],
    },
)
lowest = LowestLoss()
result = train(recipe, RunConfig(name="alpha5", storage=arguments.storage), listeners=[Progress(), lowest])
print(f"{result.status} after step {result.step}, lowest loss {lowest.lowest:.3f}")
