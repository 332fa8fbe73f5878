"""A sweep's pictures, by Optuna: all scored trials at the last step that every one of them has reached."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from optuna.exceptions import ExperimentalWarning
from optuna.visualization.matplotlib import plot_parallel_coordinate, plot_slice

from dgseg.runs.sweep.record import TrialRecord, common_step, study_at
from dgseg.runs.sweep.space import Parameter


def figures(trials: Sequence[TrialRecord], parameters: Sequence[Parameter], metric: str) -> Mapping[str, Figure]:
    """By file name; none before there is a score."""
    matplotlib.use("Agg")
    step = common_step(trials)
    short = [replace(each, name=each.short) for each in parameters]
    renamed = [replace(trial, values={one.short: trial.values[one.name] for one in parameters}) for trial in trials]
    study = study_at(step, renamed, short)
    if len(study.trials) < 2:
        return {}
    options: Any = {"params": [each.name for each in short], "target_name": f"{metric} at step {step}"}
    with warnings.catch_warnings(), matplotlib.rc_context({"font.size": 8}):
        warnings.simplefilter("ignore", ExperimentalWarning)
        parallel = plot_parallel_coordinate(study, **options).figure
        slices = plot_slice(study, **options)
        slices = (slices if len(short) == 1 else slices[0]).figure
        slices.set_size_inches(max(6.4, 3.0 * len(short)), 4.0)
        for axes in slices.axes:  # between powers of ten, labels would cover each other
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.tick_params(axis="x", labelrotation=20)
    parallel.set_size_inches(max(6.4, 1.8 * len(short)), 4.8)
    for figure in (parallel, slices):
        plt.close(figure)  # pyplot would keep it
    return {"parallel.png": parallel, "slices.png": slices}
