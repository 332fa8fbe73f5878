"""One trial: a run like any other, on a thread of Tune's actor, which passes its scores on and can stop it."""

import queue
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import torch
from ray import tune

from dgseg.runs.launch.command import Command
from dgseg.runs.launch.ray import resources_per_worker, run_on_ray
from dgseg.runs.launch.records import made
from dgseg.runs.sweep.record import trial_name
from dgseg.runs.sweep.search import NUMBER
from dgseg.runs.sweep.space import applied
from dgseg.training.listener import Listener, ScoreReport, StepReport
from dgseg.training.train import train

BEAT = 1.0  # seconds between two results without news: only between results does Tune stop a trial


class Relay(Listener):
    def __init__(self) -> None:
        self.results: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stop = threading.Event()
        self.step = 0

    def should_stop(self) -> bool:
        return self.stop.is_set()

    def on_step(self, report: StepReport) -> None:
        self.step = report.step

    def on_scores(self, report: ScoreReport) -> None:
        # A NaN compares with nothing: it counts as the worst score.
        scores = {name: 0.0 if score != score else score for name, score in report.named.items()}
        self.results.put({"step": report.step, **scores})


@dataclass(frozen=True)
class Plan:
    """The same for every trial."""

    command: Command  # but for the values and the name
    mlflow: Any = None  # MlflowConfig

    def resources(self) -> tune.PlacementGroupFactory:
        """Of a trial's actor: what training takes, or next to nothing where it waits for workers of Ray Train."""
        if self.command.launch.workers == 1:
            return tune.PlacementGroupFactory([resources_per_worker(self.command)])
        return tune.PlacementGroupFactory([{"memory": 1}])

    def at_once(self) -> int:
        """How many trials the cluster has room for."""
        needs, offered = resources_per_worker(self.command), ray.cluster_resources()
        return max(1, min(int(offered.get(each, 0) / count) for each, count in needs.items()) // self.workers)

    @property
    def workers(self) -> int:
        return self.command.launch.workers


class Trial(tune.Trainable):  # type: ignore[misc]
    def setup(self, config: dict[str, Any], plan: Plan) -> None:
        self._relay = Relay()
        self._thread = threading.Thread(target=self._run, args=(config, plan), daemon=True, name="trial")
        self._thread.start()

    def step(self) -> dict[str, Any]:
        try:
            return self._relay.results.get(timeout=BEAT)
        except queue.Empty:
            return {"step": self._relay.step}

    def cleanup(self) -> None:
        """The run saves and gives back what it holds before Tune ends this process."""
        self._relay.stop.set()
        self._thread.join()

    def _run(self, config: dict[str, Any], plan: Plan) -> None:
        number = config[NUMBER]
        recipe = applied(plan.command.recipe, {name: value for name, value in config.items() if name != NUMBER})
        command = replace(plan.command, recipe=recipe, run=replace(plan.command.run, name=trial_name(number)))
        mlflow = plan.mlflow and replace(plan.mlflow, tags={**plan.mlflow.tags, "trial": str(number)})
        try:
            if plan.workers == 1:
                torch.set_num_threads(min(command.launch.cpus_per_worker or 1, torch.get_num_threads()))
                result = train(recipe, command.run, listeners=[*made(mlflow, shown=False), self._relay])
            else:
                result = run_on_ray(command, listeners=partial(made, mlflow, False), screen=[self._relay])
        except Exception as error:
            self._relay.results.put({"done": True, "failed": str(error) or type(error).__name__})
            return
        if result.status == "finished":
            self._relay.results.put({"done": True, "finished": True, "step": result.step})
        elif not self._relay.stop.is_set():
            reason = f"stopped at step {result.step} by a signal to its workers"
            self._relay.results.put({"done": True, "failed": reason})
