"""What follows from a sweep's record: proposals, milestones, the summary and its pictures."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dgseg.recipes import from_yaml, named, override
from dgseg.runs.sweep.conduct import SUMMARY, write
from dgseg.runs.sweep.record import Record, TrialRecord, best
from dgseg.runs.sweep.search import NUMBER, Milestones, RecordedSearch
from dgseg.runs.sweep.space import applied, chosen, spaces
from dgseg.runs.sweep.summary import importances
from dgseg.runs.sweep.sweep import milestones
from dgseg.training.storage import open_storage
from tests.runs.sweep.made import trials

RECIPE = named("flexseg-streets")
USUAL = chosen(spaces(RECIPE), [])


def asked(folder: Path, count: int, kind: str, ends: bool = True) -> list[dict[str, float]]:
    """Proposals one after the other, as of a process that is killed after every one of them."""
    found = []
    for _ in range(count):
        record = Record(open_storage(folder))
        config = RecordedSearch(record, USUAL, kind, 0, 16).suggest("any")
        assert config is not None
        found.append(config)
        if ends:
            trial = record.trials[config[NUMBER]]
            trial.status, trial.scores = "finished", {10: trial.values["objective.ube.alpha"] / 12}
            record.save()
    return found


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_search_that_is_killed_all_the_time_is_the_same_search(tmp_path: Path, kind: str) -> None:
    killed = asked(tmp_path / "killed", 12, kind)
    record = Record(open_storage(tmp_path / "whole"))
    search = RecordedSearch(record, USUAL, kind, 0, 16)
    for number, config in enumerate(killed):
        assert search.suggest("any") == config
        trial = record.trials[number]
        trial.status, trial.scores = "finished", {10: trial.values["objective.ube.alpha"] / 12}
    assert [config[NUMBER] for config in killed] == list(range(12))
    assert len({config["objective.ube.alpha"] for config in killed}) == 12
    alphas = [config["objective.ube.alpha"] for config in killed]
    if kind == "tpe":  # it has learnt that more is better
        assert np.mean(alphas[-4:]) > 6, "chance comes to 3.6"


def test_unfinished_trials_come_first_and_keep_their_numbers(tmp_path: Path) -> None:
    first = asked(tmp_path, 1, "tpe", ends=False)[0]
    assert first["objective.ube.alpha"] == 3.0
    assert asked(tmp_path, 2, "tpe", ends=False) == [first, first]


def begun(count: int = 40) -> Any:
    """A record of trials of which nothing is known."""
    return SimpleNamespace(trials=[TrialRecord(number, {}) for number in range(count)])


def scheduler_of(record: Record, cut: list[int]) -> Milestones:
    return Milestones(record, "validation", [111, 333], 3, cut.append)


def test_poor_trials_are_cut_at_milestones_also_after_a_restart(tmp_path: Path) -> None:
    record, cut = Record(open_storage(tmp_path)), []
    record.trials = [TrialRecord(number, {}, "stopped", {111: 0.3 + number / 100}) for number in range(6)]
    record.trials += [TrialRecord(number, {}) for number in (6, 7)]
    scheduler = scheduler_of(record, cut)
    assert cut == [], "of trials that have ended nobody is told"
    for number, score in ((6, 0.31), (7, 0.5)):
        trial = SimpleNamespace(trial_id=f"tune-{number}", config={NUMBER: number})
        scheduler.on_trial_add(None, trial)
        for step in (55, 111, 222):
            told = scheduler.on_trial_result(None, trial, {"step": step, "validation": score})
            assert told == scheduler.CONTINUE, "a trial ends itself"
    assert cut == [6]
    scheduler.on_trial_result(None, trial, {"step": 1000, "validation": 0.0})
    assert 7 not in cut, "who has come to the end is let finish"


def test_who_was_let_go_on_is_not_stopped_by_a_restart() -> None:
    """At once, the later number came first: in the record's order it would be the second of two."""
    cut: list[int] = []
    record = begun(2)
    scheduler = scheduler_of(record, cut)
    for number, step, score in ((1, 111, 0.3), (0, 111, 0.4), (1, 333, 0.5)):
        scheduler.on_trial_result(None, SimpleNamespace(config={NUMBER: number}), {"step": step, "validation": score})
        record.trials[number].scores[step] = score
    scheduler_of(record, cut)
    assert cut == []
    assert [each.status for each in record.trials] == ["running", "running"]


def test_scores_that_come_late_decide_once_at_the_milestone_they_have_reached() -> None:
    """--train.evaluate-every may be longer than from one milestone to the next."""
    cut: list[int] = []
    scheduler = Milestones(begun(), "validation", [111, 333], 3, cut.append)
    for number, scores in enumerate(((0.1, 0.5), (0.2, 0.4))):
        for step, score in zip((400, 800), scores, strict=True):
            scheduler.on_trial_result(
                None, SimpleNamespace(config={NUMBER: number}), {"step": step, "validation": score}
            )
    assert cut == []


SCORES = st.lists(st.tuples(st.floats(), st.floats()), max_size=40)


@given(SCORES, st.integers(2, 4))
def test_who_goes_on_is_among_the_best_of_those_that_came_so_far(
    scores: list[tuple[float, float]], factor: int
) -> None:
    cut: list[int] = []
    scheduler = Milestones(begun(), "validation", [10, 20], factor, cut.append)
    reached: tuple[list[float], list[float]] = [], []
    for number, two in enumerate(scores):
        trial = SimpleNamespace(config={NUMBER: number})
        for score, known, step in zip(two, reached, (10, 20), strict=True):
            scheduler.on_trial_result(None, trial, {"step": step, "validation": score})
            known.append(-np.inf if np.isnan(score) else score)
            best_ones = sorted(known)[-max(1, len(known) // factor) :]
            assert (number in cut) == (known[-1] < best_ones[0])
            if number in cut:
                break


def test_how_many_of_16_pass_where_scores_are_chance() -> None:
    """A sweep's time follows from it."""
    rng, passed = np.random.default_rng(0), [0, 0]
    for _ in range(1000):
        cut: list[int] = []
        scheduler = Milestones(begun(), "validation", [10, 20], 3, cut.append)
        for number in range(16):
            for place, step in enumerate((10, 20)):
                scheduler.on_trial_result(
                    None, SimpleNamespace(config={NUMBER: number}), {"step": step, "validation": rng.random()}
                )
                if number in cut:
                    break
                passed[place] += 1
    assert np.array(passed) / 1000 == pytest.approx([5.66, 2.52], abs=0.15)


@pytest.mark.parametrize("steps", [1, 2, 6, 18, 300, 600, 1000, 40_000])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_last_milestone_is_no_later_than_its_part_of_the_steps(steps: int, factor: int) -> None:
    found = milestones(steps, factor)
    assert len(found) == (2 if steps > factor else steps > 1)
    assert all(each % found[0] == 0 and each < steps for each in found)
    assert not found or found[-1] < 1 + steps / factor + factor


def test_a_kill_between_milestone_and_stop_stops_the_trial_all_the_same(tmp_path: Path) -> None:
    cut: list[int] = []
    record = Record(open_storage(tmp_path))
    record.trials = [TrialRecord(0, {}, "finished", {111: 0.5}), TrialRecord(1, {})]
    scheduler = scheduler_of(record, cut)
    scheduler.on_trial_result(None, SimpleNamespace(config={NUMBER: 1}), {"step": 111, "validation": 0.1})
    record.save()
    again = Record(open_storage(tmp_path))
    scheduler_of(again, cut)
    assert (cut, again.trials[1].status) == ([1], "stopped")


def test_the_record_outlives_the_process(tmp_path: Path) -> None:
    record = Record(open_storage(tmp_path))
    record.trials = trials(USUAL)
    record.save()
    assert Record(open_storage(tmp_path)).trials == record.trials


def test_the_best_has_finished() -> None:
    found = trials(USUAL)
    found[1].scores[111] = 0.9
    top = best(found)
    assert top is not None
    assert (top.status, top.number) == ("finished", 9)
    assert best(found[1:3]) is None


def test_importance_is_of_scores_at_one_step() -> None:
    step, found = importances(trials(USUAL), USUAL)
    assert step == 111
    assert next(iter(found)) == "objective.ube.alpha", "the only one that the scores follow"
    assert found["objective.ube.alpha"] > 0.7
    assert importances(trials(USUAL)[:2], USUAL)[1] == {}


def test_the_summary_of_a_finished_sweep(tmp_path: Path) -> None:
    parameters = spaces(RECIPE)
    found = trials(parameters)
    text = write(open_storage(tmp_path), "mine", "validation", RECIPE, found, parameters)
    assert "16 trials: 2 finished, 13 stopped, 1 failed." in text
    assert "**Best: trial 9**" in text
    assert "The recipe's own values (trial 0)" in text
    assert "failed: step 7: the loss is not finite |" in text
    assert "dgseg train flexseg-streets --objective.ube.alpha" in text
    assert from_yaml((tmp_path / "winner.yaml").read_text()) == applied(RECIPE, found[9].values)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SUMMARY)
    for name in ("parallel.png", "slices.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert picture.std() > 10, "something is drawn"


def test_a_summary_says_when_no_trial_is_the_recipe_as_it_is(tmp_path: Path) -> None:
    recipe = override(RECIPE, {"objective.ube.alpha": 0.0})  # which no logarithm reaches
    parameters = chosen(spaces(recipe), [])
    config = RecordedSearch(Record(open_storage(tmp_path / "new")), parameters, "tpe", 0, 16).suggest("any")
    assert config is not None
    assert config["objective.ube.alpha"] >= 0.5
    found = trials(chosen(spaces(RECIPE), []))
    text = write(open_storage(tmp_path), "mine", "validation", recipe, found, parameters)
    assert "No trial has the recipe's own values, which lie outside what is searched: ube.alpha 0." in text


def test_a_sweep_without_a_score_says_so(tmp_path: Path) -> None:
    found = [TrialRecord(0, {each.name: each.default for each in USUAL}, "failed", reason="no data")]
    text = write(open_storage(tmp_path), "mine", "validation", RECIPE, found, USUAL)
    assert "No trial has finished" in text
    assert not (tmp_path / "winner.yaml").exists()
