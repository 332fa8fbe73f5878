"""What a sweep came to: the best trial, what mattered, and the command that trains the winner."""

import contextlib
import io
import math
import shlex
from collections.abc import Sequence
from typing import Any

import optuna

from dgseg.recipes import differences, from_words, words_by_name
from dgseg.runs.launch.command import parse
from dgseg.runs.sweep.record import TrialRecord, best, common_step, study_at
from dgseg.runs.sweep.space import Parameter, applied, outside
from dgseg.training.recipe import Recipe

LEAST = 4  # scored trials below which importances are noise and nothing else


def importances(trials: Sequence[TrialRecord], parameters: Sequence[Parameter]) -> tuple[int, dict[str, float]]:
    """Shares of the variance of scores that single parameters explain (fANOVA over a random forest), most important
    first, and the step of these scores: the last that every scored trial came to, as trials of different length do not
    compare. Empty where too few trials say anything."""
    step = common_step(trials)
    values = {each.scores[step] for each in trials if step in each.scores}
    if sum(step in each.scores for each in trials) < LEAST or len(values) < 2:
        return step, {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return step, optuna.importance.get_param_importances(study_at(step, trials, parameters), evaluator=evaluator)


def command(recipe: Recipe, name: str, saved_as: str) -> str:
    """The line that trains this recipe: flags where they say it all, else the YAML that it is saved as."""
    if words := words_by_name().get(recipe.name):
        for field, (_, value) in differences(from_words(words).recipe, recipe).items():
            words += _flag(field, value) if field != "model.options" else []  # one without entries
        if _means(words, recipe):
            return shlex.join(["dgseg", "train", *words, "--name", name])
    return shlex.join(["dgseg", "train", "--recipe", saved_as, "--name", name])


def _flag(field: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        part, _, last = field.rpartition(".")
        return [f"--{field}" if value else f"--{part}.no-{last}"]
    if isinstance(value, list | tuple):
        return [f"--{field}", *map(str, value)]
    return [f"--{field}", str(value)]


def _means(words: Sequence[str], recipe: Recipe) -> bool:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse(words, prog="dgseg train").recipe == recipe
    except (ValueError, SystemExit):
        return False


def shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def percent(score: float | None) -> str:
    return "" if score is None or math.isnan(score) else f"{100 * score:.2f}"


def markdown(
    name: str, metric: str, recipe: Recipe, trials: Sequence[TrialRecord], parameters: Sequence[Parameter], saved: str
) -> str:
    """For summary.md, the terminal and MLflow. `recipe` is the one that was searched around."""
    winner = best(trials)
    counts = ", ".join(
        f"{count} {status}"
        for status in ("finished", "stopped", "failed", "running")
        if (count := sum(each.status == status for each in trials))
    )
    lines = [f"# {name}: {recipe.name}, {recipe.schedule.steps} steps", "", f"{len(trials)} trials: {counts}.", ""]
    if winner is None:
        lines += ["No trial has finished: there is no winner.", ""]
    else:
        lines += [f"**Best: trial {winner.number}**, {percent(winner.score)} % ({metric}).", ""]
        own = trials[0] if trials and all(trials[0].values[each.name] == each.default for each in parameters) else None
        if own is winner:
            lines += ["Its values are the recipe's own: nothing else that came to the end did better.", ""]
        elif own is not None:
            come = "" if own.status == "finished" else f", {own.status} at step {own.step}"
            lines += [f"The recipe's own values (trial 0): {percent(own.score)} %{come}.", ""]
        elif beyond := outside(parameters):
            named_ones = ", ".join(f"{each.short} {shown(each.default)}" for each in beyond)
            lines += [f"No trial has the recipe's own values, which lie outside what is searched: {named_ones}.", ""]
        lines += [
            "One seed each: before a gain is believed, train winner and baseline over several seeds.",
            "",
            "```",
            command(applied(recipe, winner.values), f"{name}-best", saved),
            "```",
            "",
        ]
    step, found = importances(trials, parameters)
    if found:
        short = {each.name: each.short for each in parameters}
        lines += [
            f"Importance: share of the variance of all trials' scores at step {step} that a parameter explains alone "
            "(fANOVA); with few trials a hint, no more.",
            "",
            "| parameter | importance |",
            "|---|---:|",
            *(f"| {short[each]} | {share:.2f} |" for each, share in found.items()),
            "",
        ]
    header = ["trial", *(each.short for each in parameters), "step", f"{metric} %", "status", "minutes"]
    lines += [_row(header), _row(["---:"] * len(header))]
    for each in sorted(trials, key=lambda one: (one.step, one.score or 0.0), reverse=True):
        cells = [str(each.number), *(shown(each.values[one.name]) for one in parameters)]
        status = f"{each.status}: {each.reason.splitlines()[0]}" if each.reason else each.status
        lines.append(_row([*cells, str(each.step), percent(each.score), status, f"{each.seconds / 60:.1f}"]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
