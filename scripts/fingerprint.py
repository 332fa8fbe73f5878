"""One line per system: hashes of what a few tiny training steps lead to. `make fingerprint` runs it.

A change of structure is proved by equal lines before and after, on one machine. Every line stands for one system:

    weights   of the trained model, parameter by parameter
    draws     the samples of every step, in their order
    losses    every term of every step
    counts    the scores of two test images

The last two lines are a study's table and a sweep's trials. Instruction set and threads are fixed, so that a machine
prints the same lines whatever runs beside it. `make fingerprint FINGERPRINT_ARGS='flexseg hrda'` runs some of them.
"""

import argparse
import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

FIXED = {
    "DGSEG_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONHASHSEED": "0",
}
STEPS, BATCH, SIZE = 4, 4, "96x192"
GAME = f"streets=game@train,size={SIZE}"
GENERATED = f"streets=generated@train,misalignment=2,size={SIZE}"
TEST = (f"streets=fog@test,length=2,size={SIZE}",)
UNKNOWN = (f"streets=fog@test,length=2,unknown=true,size={SIZE}",)
TINY = {
    "schedule.steps": STEPS,
    "schedule.warmup": 1,
    "data.batch_size": BATCH,
    "data.loaders": 0,
    "data.validation": [],
    "data.test": list(TEST),
    "data.protocol": "streets",
    "data.test_batch": 2,
    "train.save_every": 1000,
    "train.precision": "float32",
}
SOURCES = {"data.sources": [GAME, GENERATED], "data.augment.crop": [96, 192]}
PAIRS = {
    "data.augment.crop": [96, 192],
    "data.sources": [f"streets_pairs=game@train,size={SIZE},shift=coherent"],
    "data.test": list(UNKNOWN),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"some of: {', '.join(LINES)} (default: all)")
    wanted = parser.parse_args().systems or list(LINES)
    if unknown := sorted(set(wanted) - set(LINES)):
        parser.error(f"no system {', '.join(unknown)}; there are: {', '.join(LINES)}")
    with tempfile.TemporaryDirectory(prefix="dgseg-fingerprint-") as folder:
        lines = []
        for name in wanted:
            began = time.monotonic()
            lines.append(f"{name:12}{LINES[name](Path(folder))}")
            print(lines[-1], flush=True)
            print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    if wanted == list(LINES):
        print(f"{'all':12}{_short(chr(10).join(lines))}")
    return 0


def _short(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:10]


def _trained(folder: Path, recipe: str, changes: dict[str, Any], name: str) -> str:
    """Trains a named recipe, tiny, and hashes what came of it."""
    import torch

    from dgseg.data import Loader
    from dgseg.recipes import from_words, override
    from dgseg.training import RunConfig, train
    from dgseg.training.listener import Listener, StepReport

    draws: list[list[str]] = []
    losses: list[dict[str, float]] = []

    class Losses(Listener):
        def on_step(self, report: StepReport) -> None:
            losses.append(dict(report.losses))

    drawn_by = Loader.__iter__

    def recorded(loader: Loader) -> Iterator[Any]:
        for batch in drawn_by(loader):
            draws.append([*batch.ids, *(batch.target.ids if batch.target is not None else [])])
            yield batch

    torch.set_num_threads(1)
    Loader.__iter__ = recorded  # type: ignore[method-assign]
    try:
        run = RunConfig(name=name, storage=str(folder), device="cpu", log_every=1)
        result = train(override(from_words(recipe.split()).recipe, {**TINY, **changes}), run, listeners=[Losses()])
    finally:
        Loader.__iter__ = drawn_by  # type: ignore[method-assign]
    assert result.scores is not None
    counts = sorted((domain, sorted(by.items())) for domain, by in result.scores.scores.items())
    terms = [sorted((name, value.hex()) for name, value in step.items()) for step in losses]
    return (
        f"weights {_weights(folder / name / 'weights.safetensors')}  draws {_short(repr(draws))}  "
        f"losses {_short(repr(terms))}  counts {_short(repr(counts))}"
    )


def _weights(path: Path) -> str:
    from safetensors.torch import load_file

    whole = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.contiguous().numpy().tobytes())
    return whole.hexdigest()[:10]


def _system(recipe: str, changes: dict[str, Any] | None = None, after: str | None = None) -> Callable[[Path], str]:
    def line(folder: Path) -> str:
        own = dict(changes or {})
        if after is not None:
            weights = folder / after / "weights.safetensors"
            if not weights.exists():
                LINES[after](folder)
            own["model.weights"] = str(weights)
        return _trained(folder, recipe, own, name)

    name = next(key for key, known in RECIPES.items() if known == recipe)
    return line


def _study(folder: Path) -> str:
    command = (
        *(sys.executable, "-m", "dgseg", "study", "ablation", "--rows", "baseline", "ube", "--seeds", "0", "1"),
        *("--steps", "3", "--test", "2", "--storage", str(folder / "study"), "-o", str(folder / "table")),
        *("--device", "cpu", "--set", "data.batch_size=4", "data.loaders=0"),
    )
    _run(command)
    table = next((folder / "table").glob("*.csv")).read_text()
    rows = [[cell for cell in row if "commit" not in cell] for row in csv.reader(io.StringIO(table))]
    return f"table {_short(repr(rows))}"


def _sweep(folder: Path) -> str:
    command = (
        *(sys.executable, "-m", "dgseg", "sweep", "flexseg-streets", "--trials", "2", "--name", "sweep"),
        *("--storage", str(folder), "--no-mlflow", "--schedule.steps", "6", "--schedule.warmup", "1"),
        *("--data.batch_size", "4", "--data.loaders", "0", "--data.test", "--train.evaluate_every", "2"),
        *("--data.validation", f"streets=dusk@val,length=2,size={SIZE}", "--cpus-per-worker", "1", "--device", "cpu"),
        *("--jobs", "2"),
    )
    _run(command)
    import json

    from dgseg.runs.sweep.record import open_study, trials
    from dgseg.training.storage import open_storage

    known = [(each.values, each.scores) for each in trials(open_study(open_storage(folder / "sweep")))]
    return f"trials {_short(json.dumps(known, sort_keys=True))}"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


RECIPES = {
    "flexseg": "flexseg-streets",
    "blindnet": "blindnet-streets",
    "realtime": "realtime-streets",
    "start": "detect-streets-start",
    "stage1": "detect-streets-stage1",
    "stage2": "detect-streets-stage2",
    "mask2former": "detect-streets-start --model.family mask2former",
    "hrda": "hrda --with flexseg",
}
LINES: dict[str, Callable[[Path], str]] = {}
LINES.update(
    flexseg=_system(RECIPES["flexseg"], {**SOURCES, "sampler.hardness.window": 1}),
    blindnet=_system(RECIPES["blindnet"], SOURCES),
    realtime=_system(RECIPES["realtime"], {"data.batch_size": 2}),
    start=_system(RECIPES["start"], SOURCES),
    stage1=_system(RECIPES["stage1"], PAIRS, "start"),
    stage2=_system(RECIPES["stage2"], PAIRS, "stage1"),
    mask2former=_system(RECIPES["mask2former"], {**SOURCES, "data.batch_size": 2}),
    hrda=_system(
        RECIPES["hrda"],
        {
            "data.sources": [GAME, GENERATED],
            "data.batch_size": 2,
            "data.augment.size": [128, 256],
            "data.augment.crop": [128, 128],
            "data.augment.wanted_pixels": 50,
            "model.name": "hrda_mitb0",
            "model.pretrained": False,
            "objective.fd": None,
        },
    ),
    study=_study,
    sweep=_sweep,
)

if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in FIXED.items()):
        os.environ.update(FIXED)  # read where torch is imported and Python starts
        os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.exit(main())
