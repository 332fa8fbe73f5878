"""dgseg compare: runs side by side."""

import argparse
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dgseg.evaluation.report.table import WIDTH
from dgseg.runs.study import tables
from dgseg.runs.study.comparison import Comparison, compare, sentences
from dgseg.runs.study.page import comparison_page
from dgseg.runs.study.records import COSTS, Found, costs_note, from_folders, with_costs

DESCRIPTION = textwrap.fill(
    "Finished runs in groups, mean ± standard deviation over seeds per domain and average, and differences from a "
    "baseline with their intervals. Runs come from their folders, or from MLflow by experiment, tag or id. Without "
    "--group-by a group is a recipe, and runs whose settings differ in more than the seed stand apart.",
    100,
)
EPILOG = """examples:
  dgseg compare runs --baseline erm-streets --html compared.html
  dgseg compare --experiment dgseg --tag git.dirty=no --plots plots
  dgseg compare runs --columns cityscapes cityscapes/iou --group-by model.name --latex table2.tex
  dgseg profile bisenet_r18 deeplabv2_r101 --json costs.json
  dgseg compare runs --profile costs.json --columns cityscapes latency MACs params FPS"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    source = parser.add_argument_group("which runs")
    source.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="a run's folder, a folder of runs, or a result.json; path or URI"
    )
    source.add_argument("--experiment", nargs="+", default=[], metavar="NAME", help="of MLflow: all its finished runs")
    source.add_argument("--tag", nargs="+", default=[], metavar="NAME=VALUE", help="of these, those with all the tags")
    source.add_argument("--run", nargs="+", default=[], metavar="ID", help="MLflow's runs by their ids")
    source.add_argument("--uri", help="MLflow's server or database (default: MLFLOW_TRACKING_URI, sqlite:///mlflow.db)")
    how = parser.add_argument_group("how they are compared")
    how.add_argument(
        "--group-by", nargs="+", default=[], metavar="FIELD", help="fields of the recipe by dotted name: model.name"
    )
    how.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="fog (short for fog/miou), adverse, fog/iou for all classes, fog/iou/road, fog/macc, or fields of the "
        "recipe; default: every average and domain",
    )
    how.add_argument(
        "--profile",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE",
        help=f"of dgseg profile --json: {', '.join(COSTS)} are columns then, too",
    )
    how.add_argument("--baseline", metavar="GROUP", help="the group that differences are taken from: erm-streets")
    how.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default: 0.95)")
    out = parser.add_argument_group("what is written")
    out.add_argument("--csv", type=Path, metavar="FILE", help="a row per group and score, in fractions")
    out.add_argument("--latex", type=Path, metavar="FILE", help="tables for booktabs")
    out.add_argument("--html", type=Path, metavar="FILE", help="a page that holds everything, plots included")
    out.add_argument("--plots", type=Path, metavar="FOLDER", help="bars.png, and learning-curves.png where known")


def main(arguments: argparse.Namespace) -> int:
    runs = _runs(arguments)
    if not runs.records and runs.left_out:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(runs.left_out.items())[:8])
        raise ValueError(f"none of {len(runs.left_out)} runs can be compared: {reasons}")
    records = runs.records
    for profile in arguments.profile:
        records = with_costs(records, profile)
    found = compare(
        records,
        group_by=arguments.group_by,
        columns=arguments.columns,
        baseline=arguments.baseline,
        confidence=arguments.confidence,
    )
    if set(found.fields) & set(COSTS):
        found = replace(found, notes=(*found.notes, *map(costs_note, arguments.profile)))
    show(found)
    for name, reason in runs.left_out.items():
        print(f"left out: {name}: {reason}")
    _write(arguments, found)
    return 0


def show(found: Comparison) -> None:
    width = max(WIDTH, shutil.get_terminal_size().columns)
    for table in (*tables.scores_tables(found, width), *tables.differences_tables(found, width)):
        print(f"{table.text()}\n")
    for sentence in sentences(found):
        print(sentence)
    method = textwrap.fill(found.method, WIDTH)
    print("\n".join((f"\n{method}", *found.notes)))


def _runs(arguments: argparse.Namespace) -> Found:
    by_name = arguments.experiment or arguments.tag or arguments.run
    if arguments.run and (arguments.experiment or arguments.tag):
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
    for text in arguments.tag:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--tag {text}: write NAME=VALUE")
        tags[name] = value
    more = from_mlflow(
        MlflowConfig(uri=arguments.uri).resolved(),
        experiments=arguments.experiment,
        tags=tags,
        runs=arguments.run,
        curves=bool(arguments.html or arguments.plots),
    )
    return Found([*found.records, *more.records], {**found.left_out, **more.left_out})


def _write(arguments: argparse.Namespace, found: Comparison) -> None:
    made: tuple[tuple[Path | None, Callable[[], str]], ...] = (
        (arguments.csv, lambda: tables.as_csv(found)),
        (arguments.latex, lambda: tables.as_latex(found)),
        (arguments.html, lambda: comparison_page(found, "Runs compared")),
    )
    for path, text in made:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
            print(f"wrote {path}")
    if arguments.plots:
        from dgseg.runs.study import charts

        arguments.plots.mkdir(parents=True, exist_ok=True)
        figures = {"bars.png": charts.bars(found), "learning-curves.png": charts.learning_curves(found)}
        for name, figure in figures.items():
            if figure is not None:
                figure.savefig(arguments.plots / name, dpi=130)
                print(f"wrote {arguments.plots / name}")
