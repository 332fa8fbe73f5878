"""What a run's record says besides its points: parameters, where it ran, on which code."""

import getpass
import os
import socket
import sys
from pathlib import Path

import yaml

import dgseg
from dgseg.machine import machine
from dgseg.recipes import to_yaml
from dgseg.training.listener import RunStart
from dgseg.training.recipe import Recipe
from dgseg.training.yaml import dotted


def parameters(recipe: Recipe) -> dict[str, str]:
    """The recipe's YAML by dotted name, "schedule.steps": "500"; with the class where there is a choice."""
    return dotted(yaml.safe_load(to_yaml(recipe)))


def tags(start: RunStart) -> dict[str, str]:
    """Where a run runs: none of it changes the weights, and a continued run may run elsewhere."""
    here = machine()
    found = {
        "recipe": start.recipe.name,
        "host": socket.gethostname(),
        "device": start.device,
        "world_size": str(start.world_size),
        "strategy": start.run.strategy,
        "folder": start.folder,
        **{name: str(version) for name, version in here["versions"].items() if version},
        "dgseg": dgseg.__version__,
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
    }
    # A job's working directory leaves the repository behind: whoever submits it says what it was.
    if commit := os.environ.get("DGSEG_COMMIT") or here["commit"]:
        found["mlflow.source.git.commit"] = commit
        found["git.dirty"] = {True: "yes", False: "no", None: "unknown"}[here["uncommitted_changes"]]
    if user := _user():
        found["mlflow.user"] = user
    return found


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return None
