"""Runs small enough for tests, in as many real processes as they ask for."""

import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dgseg.recipes import flatten, from_words, override
from dgseg.training.recipe import Recipe

PATIENCE = 60.0  # seconds that the others have once one process has failed

# A model without batch-size limits, and domains that a test can afford.
TINY = {
    "data.sources": ["streets=game@train,size=64x96,length=40", "streets=generated@train,size=64x96,length=40"],
    "data.augment.crop": [48, 64],
    "data.augment.wanted_pixels": 20,
    "data.batch_size": 4,
    "data.loaders": 0,
    "data.validation": ["streets=dusk@val,size=64x96,length=4"],
    "data.test": ["streets=fog@test,size=64x96,length=4", "streets=city@test,size=64x96,length=4"],
    "schedule.steps": 20,
    "schedule.warmup": 4,
    "objective.gap.dim": 16,
    "train.save_every": 7,
}


def tiny(changes: Mapping[str, Any] | None = None, words: str = "flexseg-streets") -> Recipe:
    """Another recipe's: without what that one does without."""
    recipe, changes = from_words(words.split()).recipe, dict(changes or {})
    known = flatten(recipe).keys()
    common = {key: value for key, value in TINY.items() if key in known or key.startswith("data.")}
    if not hasattr(recipe.data.augment, "wanted_pixels"):
        del common["data.augment.wanted_pixels"]
    return override(recipe, common | changes)


def in_processes(count: int, body: str, *, timeout: float = 300.0, **given: Any) -> list[Any]:
    """Runs `body` in `count` fresh processes that torchrun's variables make one world; it sets `answer`, which comes
    back by rank. A process that fails fails the test with what it said."""
    with tempfile.TemporaryDirectory() as place:
        port = str(_free_port())
        script = Path(place) / "body.py"
        given_file = Path(place) / "given"
        given_file.write_bytes(pickle.dumps(given))
        script.write_text(
            "import pickle, sys\n"
            "from tests.training.harness import Record\n"
            f"globals().update(pickle.loads(open({str(given_file)!r}, 'rb').read()))\n"
            + textwrap.dedent(body)
            + "\npickle.dump(answer, open(sys.argv[1], 'wb'))\n"
        )
        said = [Path(place) / f"said{rank}" for rank in range(count)]
        processes = [_start(script, f"{place}/answer{rank}", rank, count, port, said[rank]) for rank in range(count)]
        _wait(processes, timeout)
        for rank, process in enumerate(processes):
            assert process.returncode == 0, f"rank {rank} of {count}:\n" + said[rank].read_text()[-4000:]
        return [pickle.loads(Path(f"{place}/answer{rank}").read_bytes()) for rank in range(count)]


def _start(script: Path, answer: str, rank: int, count: int, port: str, said: Path) -> subprocess.Popen[bytes]:
    variables = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    with said.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, script, answer], env=os.environ | variables, stdout=out, stderr=subprocess.STDOUT
        )


def _wait(processes: list[subprocess.Popen[bytes]], timeout: float) -> None:
    """For all; where one fails the others get a while to notice it."""
    deadline = time.monotonic() + timeout
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if any(process.poll() for process in processes):
            deadline = min(deadline, time.monotonic() + PATIENCE)
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


# What a proof looks at: weights, losses, and the samples of every step. `recorded` gives them of one run.
RECORDED = """
from safetensors.torch import load_file

from dgseg.data.loader import Loader
from dgseg.training.listener import Listener
from dgseg.training.run import RunConfig
from dgseg.training.train import train

class Ear(Listener):
    def __init__(self): self.losses = []
    def on_step(self, report): self.losses.append(report.losses)

def recorded(recipe, storage, name="run", listeners=(), **run):
    ids, assembled = [], Loader._batch
    def noting(self, loaded):
        batch = assembled(self, loaded)
        ids.append(list(batch.ids))
        return batch
    Loader._batch = noting
    ear = Ear()
    try:
        config = RunConfig(storage=storage, name=name, log_every=1, device="cpu", **run)
        result = train(recipe, config, listeners=[ear, *listeners])
    finally:
        Loader._batch = assembled
    weights = load_file(result.weights) if result.weights else None
    return Record(result.status, result.step, weights, ear.losses, ids)
"""


@dataclass(frozen=True)
class Record:
    status: str
    step: int
    weights: dict[str, Tensor] | None
    losses: list[dict[str, float]]  # by step, rank 0's
    ids: list[list[str]]  # by step, this rank's
