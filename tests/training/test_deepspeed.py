"""DeepSpeed alone in a process, and its files: pickles that a stranger may have written."""

import subprocess
import sys
from pathlib import Path

import pytest

from dgseg.training.yaml import to_yaml
from tests.training.harness import tiny

# One process, as a user starts it: no torchrun, no MPI.
TRAIN = """
import sys
from pathlib import Path
from dgseg.recipes import from_yaml
from dgseg.training import RunConfig, train
recipe, storage, name, stop = from_yaml(Path(sys.argv[1]).read_text()), *sys.argv[2:5]
train(recipe, RunConfig(name=name, storage=storage, device="cpu", strategy="deepspeed", stop_after=int(stop)))
"""
HOSTILE = """
import os, sys
import torch
from pathlib import Path
from dgseg.training.manifest import MANIFEST, Manifest
from dgseg.training.storage import LocalStorage

class Payload:
    def __reduce__(self):
        return os.mkdir, (sys.argv[2],)

folder = Path(sys.argv[1])
old = Manifest.read(LocalStorage(folder))
(states,) = folder.rglob("mp_rank_00_model_states.pt")
state = torch.load(states, weights_only=False)
torch.save({**state, "payload": Payload()}, states)
(folder / MANIFEST).unlink()
(folder / MANIFEST).write_bytes(Manifest.of(folder, old.step, old.score, True).encode())
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )


def test_one_process_resumes_and_executes_nothing_from_its_files(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny({"schedule.steps": 4, "data.test": [], "data.validation": []})))

    def train(name: str, stop: int) -> subprocess.CompletedProcess[str]:
        return python(TRAIN, recipe, tmp_path / "runs", name, stop)

    for name, stops in (("whole", [4]), ("parts", [2, 4]), ("hostile", [2])):
        for stop in stops:
            done = train(name, stop)
            assert done.returncode == 0, done.stderr
    weights = [tmp_path / "runs" / name / "weights.safetensors" for name in ("whole", "parts")]
    assert weights[0].read_bytes()[1000:] == weights[1].read_bytes()[1000:]

    (checkpoint,) = (tmp_path / "runs" / "hostile" / "checkpoints").iterdir()
    planted = python(HOSTILE, checkpoint, tmp_path / "executed")
    assert planted.returncode == 0, planted.stderr
    refused = train("hostile", 4)
    assert refused.returncode != 0
    assert "mp_rank_00_model_states.pt is refused: it holds posix.mkdir" in refused.stderr
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("stage", [0, 1, 3])
@pytest.mark.slow
def test_every_stage_reads_its_own_files_back(tmp_path: Path, stage: int) -> None:
    recipe, config = tmp_path / "recipe.yaml", tmp_path / "zero.json"
    recipe.write_text(to_yaml(tiny({"schedule.steps": 4, "data.test": [], "data.validation": []})))
    config.write_text(f'{{"zero_optimization": {{"stage": {stage}}}, "zero_allow_untested_optimizer": true}}')
    code = TRAIN.replace('strategy="deepspeed"', f'strategy="deepspeed", deepspeed="{config}"')
    for stop in (2, 4):
        done = python(code, recipe, tmp_path / "runs", "run", stop)
        assert done.returncode == 0, done.stderr
