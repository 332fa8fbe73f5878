"""Hardness-aware draws: their distribution, their lag of one window, their schedules, and their state."""

import copy
import io

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from dgseg.data.samplers import Hardness, HardnessConfig, Mixture, Uniform

B, WINDOW = 4, 5


def sampler(size=60, *, max_steps=200, seed=0, **config):
    base = Mixture(
        [Uniform(size // 2, batch_size=B, seed=seed, source=s) for s in range(2)], [1, 1], batch_size=B, seed=seed
    )
    return Hardness(base, max_steps=max_steps, seed=seed, config=HardnessConfig(**{"window": WINDOW} | config))


def key(draw, size=60):
    return draw.source * (size // 2) + draw.index


def loss(index, step):
    """As if image 7 k were hard, and all grew easier."""
    return (5.0 if index % 7 == 0 else 0.5) / (1 + step / 100)


def train(hardness, first, last, ahead=0):
    """What a loop does that prefetches `ahead` steps; returns the draws of every step."""
    seen = {}
    for step in range(first, last):
        for early in range(step, min(step + ahead + 1, last)):
            seen.setdefault(early, hardness.draws(early))
        assert hardness.draws(step) == seen[step]  # prefetching changes nothing
        indices = [key(draw) for draw in seen[step]]
        hardness.observe(step, indices, [loss(i, step) for i in indices])
    return seen


@pytest.mark.parametrize("per_draw", [False, True])
def test_prefetching_by_a_window_changes_nothing(per_draw):
    plain = train(sampler(per_draw=per_draw), 0, 100)
    assert plain == train(sampler(per_draw=per_draw), 0, 100, ahead=WINDOW)
    assert plain != train(sampler(per_draw=per_draw, seed=1), 0, 100)


def test_draws_of_a_window_know_the_scores_of_the_last_but_one():
    """At tau small an image with a large loss is drawn almost surely, from the very window that may know of it."""
    hardness = sampler(decay="none", temperature=0.02, beta=0.0)
    hard = 11
    for step in range(4 * WINDOW):
        indices = [key(draw) for draw in hardness.draws(step)]
        if step < 2 * WINDOW:
            assert indices != [hard] * B
        else:
            assert indices == [hard] * B, step
        hardness.observe(step, [hard, 3], [9.0, 1.0])  # first seen in window 0


def test_asking_too_far_ahead_or_back_says_why():
    hardness = sampler()
    hardness.draws(2 * WINDOW - 1)
    with pytest.raises(ValueError, match="need the losses of all steps before 5, and step 0 has not been observed"):
        hardness.draws(2 * WINDOW)
    train(hardness, 0, 2 * WINDOW)
    with pytest.raises(ValueError, match="are gone"):
        hardness.draws(0)
    with pytest.raises(ValueError, match="step 10 is next"):
        hardness.observe(9, [0], [1.0])
    with pytest.raises(ValueError, match="step 10 is next"):
        hardness.observe(11, [0], [1.0])


@pytest.mark.parametrize("standardise", [False, True])
def test_loss_based_draws_follow_the_scores(standardise):
    batch = 100
    base = Uniform(40, batch_size=batch, seed=0)
    config = HardnessConfig(window=50, decay="none", standardise=standardise, temperature=0.7)
    hardness = Hardness(base, max_steps=1000, seed=0, config=config)
    random = np.random.default_rng(0)
    for step in range(100):
        indices = random.integers(0, 30, batch)  # 30-39 stay unseen
        hardness.observe(step, indices, random.gamma(1.0, 1.0 + indices / 10))
    scores = hardness.table.scores()
    assert np.isnan(scores[30:]).all()
    assert not np.isnan(scores[:30]).any()
    filled = np.where(np.isnan(scores), np.nanmean(scores), scores) / (np.nanstd(scores) if standardise else 1.0)
    expected = np.exp(filled / 0.7)
    for step in range(100, 150):  # nothing new, so that window 3 knows what window 1 left
        hardness.observe(step, [], [])
    drawn = np.bincount([draw.index for step in range(150, 200) for draw in hardness.draws(step)], minlength=40)
    assert chisquare(drawn, expected / expected.sum() * drawn.sum()).pvalue > 1e-4


def test_a_window_averages_the_visits_of_an_image_and_skips_void_ones():
    hardness = sampler(beta=0.75)
    visits = [([3, 4], [2.0, 7.0]), ([3, 5], [4.0, 0.0]), ([3, 9], [9.0, float("nan")]), ([], []), ([4], [1.0])]
    for step, (indices, losses) in enumerate(visits):
        hardness.observe(step, indices, losses, np.array([i not in (5, 9) for i in indices], bool))
    scores = hardness.table.scores()
    assert scores[3] == 5.0
    assert scores[4] == 4.0
    assert hardness.table.seen == 2
    for step in range(5, 10):
        hardness.observe(step, [3], [1.0])
    assert hardness.table.scores()[3] == 0.75 * 5 + 0.25 * 1


def test_the_order_in_which_ranks_report_does_not_matter():
    random = np.random.default_rng(0)
    one, other = sampler(), sampler()
    for step in range(3 * WINDOW):
        indices, losses = random.integers(0, 60, 8), random.random(8)
        one.observe(step, indices, losses)
        order = random.permutation(8)
        other.observe(step, torch.from_numpy(indices[order]), torch.from_numpy(losses[order]))
    np.testing.assert_array_equal(one.table.scores(), other.table.scores())


@pytest.mark.parametrize("stop", [0, 3, 5, 12, 29, 30, 31])
@pytest.mark.parametrize("standardise", [False, True])
def test_training_resumes_exactly_at_any_step(stop, standardise):
    whole = sampler(standardise=standardise)
    expected = train(whole, 0, 60, ahead=3)
    first = sampler(standardise=standardise)
    train(first, 0, stop, ahead=3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = sampler(standardise=standardise)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    found = train(resumed, stop, 60)
    assert found == {step: draws for step, draws in expected.items() if step >= stop}
    ends = whole.state_dict(), resumed.state_dict()
    for name in ("scores", "pending_indices", "pending_losses"):
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=0, atol=0, equal_nan=True)
    assert (ends[0]["scale"], ends[0]["offset"]) == (ends[1]["scale"], ends[1]["offset"])


def test_a_state_does_not_move_with_the_sampler():
    hardness = sampler()
    train(hardness, 0, 7)
    state = hardness.state_dict()
    before = copy.deepcopy(state)
    train(hardness, 7, 30)
    assert state["step"] == before["step"]
    assert torch.equal(state["pending_losses"], before["pending_losses"])
    torch.testing.assert_close(state["scores"], before["scores"], rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(state["images"][w], before["images"][w]) for w in before["images"])


def test_a_state_of_other_settings_is_refused():
    state = sampler().state_dict()
    with pytest.raises(ValueError, match=r"made with temperature=1\.0, here it is 0\.5"):
        sampler(temperature=0.5).load_state_dict(state)
    with pytest.raises(ValueError, match="seed"):
        sampler(seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="sizes"):
        sampler(size=80).load_state_dict(state)


def test_the_schedules():
    paper = Hardness(Uniform(9, batch_size=1, seed=0), max_steps=40_000, seed=0)
    for t in (0, 1, 100, 400, 555, 799):
        assert paper.random_share(50 * t + 49) == pytest.approx(1 / (1 + np.exp(0.05 * (t - 400))), rel=1e-9)
    short = sampler(max_steps=40 * WINDOW)  # the same shape in 40 updates
    for t in range(40):
        assert short.random_share(WINDOW * t) == pytest.approx(paper.random_share(50 * 20 * t), rel=1e-9)
    linear = sampler(max_steps=40 * WINDOW, decay="linear")
    assert [linear.random_share(WINDOW * t) for t in (0, 10, 40, 50)] == [1.0, 0.75, 0.0, 0.0]
    assert sampler(decay="none").random_share(0) == 0.0
    assert sampler(max_steps=40 * WINDOW, midpoint=0.0).random_share(0) == 0.5


def test_one_chance_for_the_batch_or_one_for_every_draw():
    """The random branch is the base sampler's own draw of that number; else it would be so by chance."""
    for per_draw in (False, True):
        hardness = sampler(
            size=600, max_steps=400, midpoint=0.0, steepness=1e-9, per_draw=per_draw
        )  # a half throughout
        kinds = []
        for step in range(400):
            draws = hardness.draws(step)
            kinds.append(sum(draw == hardness.base.draw(draw.number) for draw in draws))
            hardness.observe(step, [], [])
        counts = np.bincount(kinds, minlength=B + 1)
        assert abs(sum(kinds) - 200 * B) < 5 * np.sqrt(400 * B * (1 if per_draw else B) / 4)
        mixed = counts[1:-1].sum() / 400
        assert mixed > 0.7 if per_draw else mixed < 0.05
    none = sampler(size=600, decay="none")
    assert not any(draw == none.base.draw(draw.number) for draw in none.draws(0) + none.draws(1))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([60], [1.0]), "index 60"),
        (([-1], [1.0]), "-1"),
        (([0.0], [1.0]), "float64"),
        (([0], [float("nan")]), "not finite"),
        (([0, 1], [1.0]), "one length"),
        (([0], [1.0], [1]), "boolean"),
    ],
)
def test_wrong_observations_are_refused_and_change_nothing(arguments, named):
    hardness = sampler()
    with pytest.raises(ValueError, match=named):
        hardness.observe(0, *arguments)
    assert hardness.step == 0
    assert hardness.state_dict()["pending_indices"].numel() == 0


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"window": 0}, "window"),
        ({"decay": "cosine"}, "sigmoid, linear, none"),
        ({"steepness": 0.0}, "steepness"),
        ({"midpoint": float("nan")}, "midpoint"),
    ],
)
def test_wrong_settings_are_named(config, named):
    with pytest.raises(ValueError, match=named):
        sampler(**config)
