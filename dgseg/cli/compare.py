"""dgseg compare: runs side by side."""

import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from dgseg.cli.arguments import File, Folder, OmitArgPrefixes, Positional, Words, arg, described
from dgseg.evaluation.report.table import WIDTH
from dgseg.runs.study import tables
from dgseg.runs.study.comparison import Comparison, compare, sentences
from dgseg.runs.study.page import comparison_page
from dgseg.runs.study.records import COSTS, Found, costs_note, from_folders, with_costs

DESCRIPTION = (
    "Finished runs in groups, mean ± standard deviation over seeds per domain and average, and differences from a "
    "baseline with their intervals. Runs come from their folders, or from MLflow by experiment, tag or id. Without "
    "--group-by a group is a recipe; where settings differ in more than the seed, a run stands by its own name, "
    "several seeds of it by a letter, and a table says what differs. Runs without a common domain stand apart."
)
COLUMNS = (
    "fog (short for fog/miou), adverse, fog/iou for all classes, fog/iou/road, fog/macc, or fields of the recipe "
    "(default: every average and domain)."
)
EXAMPLES = """\
  dgseg compare runs --baseline erm-streets --html compared.html
  dgseg compare --experiment dgseg --tag git.dirty=no --plots plots
  dgseg compare runs --columns cityscapes cityscapes/iou --group-by model.name --latex table2.tex
  dgseg profile bisenet_r18 deeplabv2_r101 --json costs.json
  dgseg compare runs --profile costs.json --columns cityscapes latency MACs params FPS"""


@dataclass(frozen=True)
class Mlflow:
    """Runs of MLflow."""

    experiment: Words = ()
    """All its finished runs."""
    tag: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE…", help_behavior_hint="")] = ()
    """Of these, those with all the tags."""
    run: Annotated[tuple[str, ...], arg(metavar="ID…", help_behavior_hint="")] = ()
    """Runs by their ids."""
    uri: Annotated[str | None, arg(metavar="URI", help_behavior_hint="")] = None
    """Its server or database (default: MLFLOW_TRACKING_URI, sqlite:///mlflow.db)."""


@dataclass(frozen=True)
class How:
    """How they are compared."""

    group_by: Annotated[tuple[str, ...], arg(metavar="FIELD…", help_behavior_hint="")] = ()
    """Fields of the recipe by dotted name: model.name."""
    columns: Annotated[tuple[str, ...], described(COLUMNS, "COLUMN…")] = ()
    profile: Annotated[tuple[Path, ...], arg(metavar="FILE…", help_behavior_hint="")] = ()
    """Of dgseg profile --json: latency, MACs, params and FPS are columns then, too."""
    baseline: Annotated[str | None, arg(metavar="GROUP", help_behavior_hint="")] = None
    """The group that differences are taken from: erm-streets."""
    confidence: float = 0.95
    """Of the intervals."""


@dataclass(frozen=True)
class Output:
    """What is written."""

    csv: File = None
    """A row per group and score, in fractions."""
    latex: File = None
    """Tables for booktabs."""
    html: File = None
    """A page that holds everything, plots included."""
    plots: Folder = None
    """bars.png, and learning-curves.png where known."""


@dataclass(frozen=True)
class Arguments:
    mlflow: OmitArgPrefixes[Mlflow]
    how: OmitArgPrefixes[How]
    output: OmitArgPrefixes[Output]
    folders: Annotated[Positional[tuple[str, ...]], arg(metavar="FOLDER…", help_behavior_hint="")] = ()
    """A run's folder, a folder of runs, or a result.json; path or URI."""


def main(arguments: Arguments) -> int:
    runs, how = _runs(arguments), arguments.how
    if not runs.records and runs.left_out:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(runs.left_out.items())[:8])
        raise ValueError(f"none of {len(runs.left_out)} runs can be compared: {reasons}")
    records = runs.records
    for profile in how.profile:
        records = with_costs(records, profile)
    found = compare(
        records,
        group_by=how.group_by,
        columns=how.columns,
        baseline=how.baseline,
        confidence=how.confidence,
    )
    if set(found.fields) & set(COSTS):
        found = replace(found, notes=(*found.notes, *map(costs_note, how.profile)))
    show(found)
    for name, reason in runs.left_out.items():
        print(f"left out: {name}: {reason}")
    _write(arguments.output, found)
    return 0


def show(found: Comparison) -> None:
    width = max(WIDTH, shutil.get_terminal_size().columns)
    for table in (
        *tables.scores_tables(found, width),
        *tables.settings_tables(found, width),
        *tables.differences_tables(found, width),
    ):
        print(f"{table.text()}\n")
    for sentence in sentences(found):
        print(sentence)
    method = textwrap.fill(found.method, WIDTH)
    print("\n".join((f"\n{method}", *found.notes)))


def _runs(arguments: Arguments) -> Found:
    mlflow = arguments.mlflow
    by_name = mlflow.experiment or mlflow.tag or mlflow.run
    if mlflow.run and (mlflow.experiment or mlflow.tag):
        raise ValueError("--run names runs by themselves: leave out --experiment and --tag")
    if not arguments.folders and not by_name:
        raise ValueError("name runs' folders, or --experiment, --tag or --run of MLflow")
    found = from_folders(arguments.folders)
    if not by_name:
        return found
    try:
        from dgseg.runs.study.mlflow_runs import from_mlflow
        from dgseg.runs.tracking.listener import MlflowConfig
    except ImportError as error:
        raise ValueError(f"{error}: pip install 'dgseg[train]', or name runs' folders") from error
    tags = {}
    for text in mlflow.tag:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--tag {text}: write NAME=VALUE")
        tags[name] = value
    more = from_mlflow(
        MlflowConfig(uri=mlflow.uri).resolved(),
        experiments=mlflow.experiment,
        tags=tags,
        runs=mlflow.run,
        curves=bool(arguments.output.html or arguments.output.plots),
    )
    return Found([*found.records, *more.records], {**found.left_out, **more.left_out})


def _write(output: Output, found: Comparison) -> None:
    files: tuple[tuple[Path | None, Callable[[], str]], ...] = (
        (output.csv, lambda: tables.as_csv(found)),
        (output.latex, lambda: tables.as_latex(found)),
        (output.html, lambda: comparison_page(found, "Runs compared")),
    )
    for path, text in files:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
            print(f"wrote {path}")
    if output.plots:
        from dgseg.runs.study import charts

        output.plots.mkdir(parents=True, exist_ok=True)
        figures = {"bars.png": charts.bars(found), "learning-curves.png": charts.learning_curves(found)}
        for name, figure in figures.items():
            if figure is not None:
                figure.savefig(output.plots / name, dpi=130)
                print(f"wrote {output.plots / name}")
