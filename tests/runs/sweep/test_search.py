"""What follows from a sweep's record: proposals, milestones, the summary and its pictures."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ray.tune.schedulers import ASHAScheduler

from dgseg.recipes import from_yaml, named, override
from dgseg.runs.sweep.record import TrialRecord, best, open_study
from dgseg.runs.sweep.record import trials as trials_of
from dgseg.runs.sweep.run import write
from dgseg.runs.sweep.search import NUMBER, ExactASHA, StoredSearch
from dgseg.runs.sweep.space import applied, chosen, spaces
from dgseg.runs.sweep.summary import importances
from dgseg.runs.sweep.sweep import milestones
from dgseg.training.storage import open_storage
from tests.runs.sweep.made import trials

RECIPE = named("flexseg-streets")
USUAL = chosen(spaces(RECIPE), [])


def end(search: StoredSearch, trial_id: str, config: dict[str, Any]) -> None:
    result = {"step": 10, "validation": config["objective.ube.alpha"] / 12}
    search.on_trial_result(trial_id, result)
    search.on_trial_complete(trial_id, {**result, "finished": True})


def search_of(folder: Path, kind: str = "tpe") -> StoredSearch:
    return StoredSearch(open_study(open_storage(folder)), USUAL, "validation", kind, 0, 16)


def proposals(folder: Path, count: int, kind: str, ends: bool = True) -> list[dict[str, Any]]:
    """One after the other, as of a process that is killed after every one of them."""
    configs = []
    for _ in range(count):
        search = search_of(folder, kind)
        configs.append(search.suggest("any"))
        if ends:
            end(search, "any", configs[-1])
    return configs


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_search_that_is_killed_all_the_time_is_the_same_search(tmp_path: Path, kind: str) -> None:
    killed = proposals(tmp_path / "killed", 12, kind)
    search = search_of(tmp_path / "whole", kind)
    for number, config in enumerate(killed):
        assert search.suggest(f"id-{number}") == config
        end(search, f"id-{number}", config)
    assert [config[NUMBER] for config in killed] == list(range(12))
    alphas = [config["objective.ube.alpha"] for config in killed]
    assert len(set(alphas)) == 12
    assert alphas[0] == 3.0, "the recipe's own"
    if kind == "tpe":  # it has learnt that more is better
        assert np.mean(alphas[-4:]) > 6, "chance comes to 3.6"


def test_unfinished_trials_come_first_and_keep_their_numbers(tmp_path: Path) -> None:
    first = proposals(tmp_path, 1, "tpe", ends=False)[0]
    assert first["objective.ube.alpha"] == 3.0
    assert proposals(tmp_path, 2, "tpe", ends=False) == [first, first]


def test_what_became_of_a_trial_outlives_the_process(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    for number in range(5):
        search.suggest(str(number))
        search.on_trial_result(str(number), {"step": 5})  # how far it is
        search.on_trial_result(str(number), {"step": 5, "validation": 0.1})
    end(search, "0", {"objective.ube.alpha": 6.0})
    search.on_trial_complete("1", {"step": 9, "validation": 0.2})  # the score that stopped it
    search.on_trial_complete("2", {"failed": "step 7: the loss is not finite"})
    search.on_trial_complete("3", None, error=True)
    search.fail("3", "its process was killed")
    records = trials_of(open_study(open_storage(tmp_path)))
    assert [each.status for each in records] == ["finished", "stopped", "failed", "failed", "running"]
    assert [each.scores for each in records[:2]] == [{5: 0.1, 10: 0.5}, {5: 0.1, 9: 0.2}]
    assert [each.reason for each in records[2:4]] == ["step 7: the loss is not finite", "its process was killed"]
    assert records[0].seconds >= 0


def test_reading_a_record_writes_nothing(tmp_path: Path) -> None:
    search_of(tmp_path).suggest("0")
    before = (tmp_path / "trials.jsonl").read_bytes()
    assert len(trials_of(open_study(open_storage(tmp_path)))) == 1
    assert (tmp_path / "trials.jsonl").read_bytes() == before


def test_a_finished_trial_without_a_score_has_failed(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    search.suggest("0")
    search.on_trial_complete("0", {"finished": True, "step": 10})
    record = trials_of(open_study(open_storage(tmp_path)))[0]
    assert (record.status, record.reason) == ("failed", "it ended without a score of validation")


def decide(scheduler: ExactASHA, number: int, step: int, score: float) -> bool:
    """Whether the trial continues."""
    trial = SimpleNamespace(trial_id=f"tune-{number}", config={NUMBER: number})
    answer = scheduler.on_trial_result(None, trial, {"step": step, "validation": score})
    assert answer in (scheduler.CONTINUE, scheduler.STOP)
    return bool(answer == scheduler.CONTINUE)


def study_of(*scores: dict[int, float]) -> optuna.Study:
    """Trials that are running, and their scores so far."""
    study = optuna.create_study(direction="maximize")
    for each in scores:
        trial = study.ask()
        for step, score in each.items():
            trial.report(score, step)
    return study


def scheduler_of(study: optuna.Study, steps: int = 1000) -> ExactASHA:
    return ExactASHA(study, "validation", milestones(steps, 3), 3, steps)


def test_poor_trials_stop_at_milestones_also_after_a_restart() -> None:
    scheduler = scheduler_of(study_of(*({112: 0.3 + number / 100} for number in range(6)), {}, {}))
    assert all(decide(scheduler, 6, step, 0.31) for step in (55, 111))
    assert not decide(scheduler, 6, 112, 0.31)
    assert all(decide(scheduler, 7, step, 0.5) for step in (55, 112, 222))
    assert decide(scheduler, 7, 1000, 0.0), "a trial that has come to the end may finish"


def test_who_was_let_continue_is_not_stopped_by_a_restart() -> None:
    """At once, the later number came first: in the record's order it would be the second of two."""
    scheduler = scheduler_of(study_of({112: 0.4}, {112: 0.3, 336: 0.5}))
    assert decide(scheduler, 1, 112, 0.3)
    assert decide(scheduler, 1, 340, 0.1), "its place at this milestone is decided"


def test_scores_that_come_late_decide_once_at_the_milestone_they_have_reached() -> None:
    """--train.evaluate-every may be longer than from one milestone to the next."""
    scheduler = scheduler_of(study_of({}, {}))
    assert all(
        decide(scheduler, number, step, score)
        for number, scores in enumerate(((0.1, 0.5), (0.2, 0.4)))
        for step, score in zip((400, 800), scores, strict=True)
    )


SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40)


@given(SCORES, st.integers(2, 4))
def test_who_continues_is_among_the_best_of_those_that_came_so_far(
    scores: list[tuple[float, float]], factor: int
) -> None:
    steps = milestones(1000, factor)
    scheduler = ExactASHA(study_of(), "validation", steps, factor, 1000)
    reached: tuple[list[float], list[float]] = [], []
    for number, two in enumerate(scores):
        for score, known, step in zip(two, reached, steps, strict=True):
            continues = decide(scheduler, number, step, score)
            known.append(score)
            best_ones = sorted(known)[-max(1, len(known) // factor) :]
            assert continues == (score >= best_ones[0])
            if not continues:
                break


def passing(scheduler_of: Callable[[], Any], times: int) -> list[float]:
    """How many of 16 trials pass each milestone where scores are chance, on average."""
    rng, passed = np.random.default_rng(0), [0, 0]
    for _ in range(times):
        scheduler = scheduler_of()
        for number in range(16):
            for place, step in enumerate((112, 336)):
                if not decide(scheduler, number, step, float(rng.random())):
                    break
                passed[place] += 1
    return [each / times for each in passed]


def test_how_many_of_16_pass_where_scores_are_chance() -> None:
    """A sweep's time follows from it."""
    study = study_of()
    assert passing(lambda: scheduler_of(study), 1000) == pytest.approx([5.66, 2.52], abs=0.15)


def test_tunes_own_asha_lets_more_pass() -> None:
    """The reason for ours: once this fails, Tune's will do."""

    class Stock(ASHAScheduler):
        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
            self._trial_info.setdefault(trial.trial_id, self._brackets[0])
            return str(super().on_trial_result(controller, trial, result))

    def stock() -> Stock:
        return Stock("step", "validation", "max", max_t=999, grace_period=112, reduction_factor=3)

    assert passing(stock, 100)[0] > 6.4


@pytest.mark.parametrize("steps", [1, 2, 6, 18, 300, 600, 1000, 40_000])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_last_milestone_is_no_later_than_its_part_of_the_steps(steps: int, factor: int) -> None:
    found = milestones(steps, factor)
    assert len(found) == (2 if steps > factor else steps > 1)
    assert all(each % found[0] == 0 and each < steps for each in found)
    assert not found or found[-1] < 1 + steps / factor + factor


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
    text, files = write(open_storage(tmp_path), "mine", "validation", RECIPE, found, parameters)
    assert "16 trials: 2 finished, 13 stopped, 1 failed." in text
    assert "**Best: trial 9**" in text
    assert "The recipe's own values (trial 0)" in text
    assert "failed: step 7: the loss is not finite |" in text
    assert "dgseg train flexseg-streets --objective.ube.alpha" in text
    assert from_yaml((tmp_path / "winner.yaml").read_text()) == applied(RECIPE, found[9].values)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    assert set(files) == {"summary.md", "winner.yaml", "parallel.png", "slices.png"}
    for name in ("parallel.png", "slices.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert picture.std() > 10, "something is drawn"


def test_a_summary_says_when_no_trial_is_the_recipe_as_it_is(tmp_path: Path) -> None:
    recipe = override(RECIPE, {"objective.ube.alpha": 0.0})  # which no logarithm reaches
    parameters = chosen(spaces(recipe), [])
    config = StoredSearch(open_study(open_storage(tmp_path / "new")), parameters, "validation", "tpe", 0, 16).suggest(
        "a"
    )
    assert config["objective.ube.alpha"] >= 0.5
    found = trials(chosen(spaces(RECIPE), []))
    text, _ = write(open_storage(tmp_path), "mine", "validation", recipe, found, parameters)
    assert "No trial has the recipe's own values, which lie outside what is searched: ube.alpha 0." in text


def test_a_sweep_without_a_score_says_so(tmp_path: Path) -> None:
    found = [TrialRecord(0, {each.name: each.default for each in USUAL}, "failed", reason="no data")]
    text, files = write(open_storage(tmp_path), "mine", "validation", RECIPE, found, USUAL)
    assert "No trial has finished" in text
    assert files == ["summary.md"], "no file is named that is not there"
    assert not (tmp_path / "winner.yaml").exists()
