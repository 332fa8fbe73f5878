"""dgseg study: grids of runs that answer a question."""

import argparse
import shlex
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dgseg.cli.compare import show
from dgseg.runs.study import report
from dgseg.runs.study.execute import Run, execute, finished, measure, plan
from dgseg.runs.study.grids import BUDGETS, GRIDS, Grid, with_rows, within
from dgseg.training import Listener, Progress

if TYPE_CHECKING:
    from dgseg.runs.tracking.listener import MlflowConfig

DESCRIPTION = textwrap.fill(
    "Trains every row of a study with several seeds, and says which differences are beyond noise. ablation: the rows "
    "of FLEX-Seg's Table 2. misalignment: mIoU against label misalignment in pixels, with FLEX-Seg and without. "
    "sensitivity: α, τ, λ_gap and k, one at a time. boundary: fixed weightings of boundary pixels, and UBE. "
    "blindnet: each of its losses. realtime: augmentations, the adversary, and losses beside it. "
    "detection: unknown objects, found by Generalize or Detect, by its baselines and by other scorers; "
    "detection-mask2former: the same on that model. Every run's last checkpoint is scored; nothing is chosen by a "
    "score. Stopped at any time, the same command resumes; a run that is finished is not run again. The exit status is "
    "1 where a run failed, 130 when it was stopped.",
    100,
)
EPILOG = """examples:
  dgseg study ablation --budget cpu --dry-run
  dgseg study ablation --budget cpu --jobs 2 -o results/ablation
  dgseg study misalignment --steps 300 --seeds 0 1 2 3 4"""

RESUME = "the same command resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.add_argument("study", choices=list(GRIDS))
    size = parser.add_argument_group("how much")
    size.add_argument(
        "--budget",
        choices=list(BUDGETS),
        default="cpu",
        help="smoke: 20 steps, 2 seeds, 8 test images per domain; cpu: 400 steps, 3 seeds; full: the recipes' steps, 3 "
        "seeds (default: cpu)",
    )
    size.add_argument("--steps", type=int, metavar="N", help="of the longest runs, instead of the budget's")
    size.add_argument("--test", type=int, metavar="N", help="images per domain of the streets world, likewise")
    size.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="instead of the budget's")
    size.add_argument(
        "--rows", nargs="+", metavar="ROW", help="these alone, as --dry-run names them, and what they stand on"
    )
    size.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="of every recipe: model.name=bisenet_r18"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--storage", default="runs/study", help="folder of the runs: path or URI (default: runs/study)")
    where.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="K",
        help="runs side by side, on the Ray cluster of RAY_ADDRESS or a Ray of their own here (default: 1, in this "
        "process, without Ray)",
    )
    where.add_argument("--workers", type=_jobs_by_their_old_name, dest="jobs", help=argparse.SUPPRESS)
    where.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster to join (auto, host:port)")
    where.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: auto)")
    where.add_argument(
        "--mlflow", nargs="?", const="", metavar="URI", help="also keep the runs in MLflow, under one parent"
    )
    where.add_argument("--experiment", default="dgseg", metavar="NAME", help="of MLflow (default: dgseg)")
    where.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="of the results (default: study-<name>, here)")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default: 0.95)")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and the time that they will take")


def _jobs_by_their_old_name(value: str) -> int:
    print("dgseg study: --workers is --jobs now: workers are processes that train one model together", file=sys.stderr)
    return int(value)


def main(arguments: argparse.Namespace) -> int:
    grid, seeds = _grid(arguments)
    runs = plan(grid, seeds)
    if arguments.dry_run:
        return _dry_run(arguments, grid, runs)
    tracked = _tracked(arguments, grid)
    listeners: list[Listener] = [Progress()] if arguments.jobs == 1 and sys.stderr.isatty() else []
    outcome = execute(
        runs,
        arguments.storage,
        jobs=arguments.jobs,
        device=arguments.device,
        address=arguments.address,
        mlflow=tracked,
        listeners=listeners,
    )
    if tracked is not None:
        from dgseg.runs.study.mlflow_runs import close

        close(tracked, outcome.complete)
    if outcome.stopped:
        raise KeyboardInterrupt
    notes = [f"{name} failed and is in no score: {reason}." for name, reason in outcome.failed.items()]
    done = finished(runs, arguments.storage)
    if not done:
        raise ValueError(f"no run finished: {'; '.join(notes)}")
    unknown = None
    if any(row.scorer for row in grid.rows):
        from dgseg.runs.study.detections import detections

        unknown, asking = detections(
            grid,
            runs,
            done,
            arguments.storage,
            jobs=arguments.jobs,
            device=arguments.device,
            address=arguments.address,
        )
        if asking.stopped:
            raise KeyboardInterrupt
        notes += [f"{name} was not asked for unknown objects: {why}." for name, why in asking.failed.items()]
    found = report.compared(grid, runs, done, notes, arguments.confidence, unknown)
    show(found)
    out = arguments.out or Path(f"study-{grid.name}")
    for path in report.write(grid, found, out, _command()):
        print(f"wrote {path}")
    return 1 if notes else 0


def _grid(arguments: argparse.Namespace) -> tuple[Grid, tuple[int, ...]]:
    if not 0 < arguments.confidence < 1:
        raise ValueError(f"--confidence is {arguments.confidence}; it must lie between 0 and 1")
    budget = BUDGETS[arguments.budget]
    changes = {}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: write FIELD=VALUE")
        if name == "seed":
            raise ValueError(f"--set {text}: every row is trained with each of --seeds")
        changes[name] = value
    if arguments.steps is not None:
        budget = replace(budget, steps=arguments.steps)
    if arguments.test is not None:
        budget = replace(budget, test=arguments.test)
    grid = within(GRIDS[arguments.study](), budget, changes)
    if arguments.rows is not None:
        grid = with_rows(grid, arguments.rows)
    return grid, tuple(arguments.seeds or budget.seeds)


def _dry_run(arguments: argparse.Namespace, grid: Grid, runs: list[Run]) -> int:
    print(f"{grid.question}\n")
    done = finished(runs, arguments.storage)
    for run in runs:
        against = next(row.against for row in grid.rows if row.label == run.label)
        beside = f", against {against}" if against else ""
        print(f"{'finished' if run.name in done else 'to run  '}  {run.name}  ({run.label}{beside})")
    # Rows may share a run.
    names = {run.name for run in runs}
    left = list({run.name: run for run in runs if run.name not in done}.values())
    if not left:
        print("\nnothing is left to run")
        return 0
    # The last row does most in every study: what it takes bounds the others.
    expected = measure(left[-1].recipe, arguments.device)
    seconds = sum(expected.seconds(run.recipe) for run in left)
    print(
        f"\n{len(left)} of {len(names)} runs are left: about {_clock(seconds)} one after another. Measured on 4 steps "
        f"of {left[-1].label}: {1000 * expected.step:.0f} ms a step, {1000 * expected.image:.0f} ms to score an image, "
        f"{expected.other:.0f} s to begin and end. Runs side by side share the cores."
    )
    return 0


def _tracked(arguments: argparse.Namespace, grid: Grid) -> "MlflowConfig | None":
    if arguments.mlflow is None:
        return None
    try:
        from dgseg.runs.study.mlflow_runs import parent
        from dgseg.runs.tracking.listener import MlflowConfig
    except ImportError as error:
        raise ValueError(f"{error}, or leave out --mlflow") from error
    config = MlflowConfig(uri=arguments.mlflow or None, experiment=arguments.experiment, tags={"study": grid.name})
    return parent(config.resolved(), f"{Path(arguments.storage).absolute()}/{grid.name}", grid.question)


def _command() -> str:
    return shlex.join(["dgseg", *sys.argv[1:]])


def _clock(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
