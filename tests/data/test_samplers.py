"""Uniform, rare-class, class-uniform and mixed draws: what they draw, how often, and that nothing but (seed, number)
decides."""

import logging
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dgseg.data.dataset import DataError
from dgseg.data.sample import Draw
from dgseg.data.samplers import ClassUniform, Mixture, RareClass, Uniform, rank_slice
from dgseg.data.samplers.base import uniforms
from dgseg.data.samplers.counts import DrawCounts
from dgseg.data.samplers.permutation import permuted


def class_pixels(size=300, shares=(0.7, 0.25, 0.04, 0.01), seed=0):
    """Images of 10,000 pixels, rare classes in few of them."""
    random = np.random.default_rng(seed)
    present = random.random((size, len(shares))) < np.minimum(1, 3 * np.array(shares))
    present[:, 0] |= ~present.any(1)
    parts = present * np.array(shares)
    return (10_000 * parts / parts.sum(1, keepdims=True)).astype(np.int64)


PIXELS = class_pixels()
SAMPLERS = {
    "uniform": Uniform(300, batch_size=6, seed=3),
    "rare_class": RareClass(PIXELS, batch_size=6, seed=3, temperature=0.5, min_pixels=100),
    "class_uniform": ClassUniform(PIXELS, batch_size=6, seed=3),
    "mixture": Mixture(
        [Uniform(300, batch_size=6, seed=3), RareClass(PIXELS, batch_size=6, seed=3, source=1, min_pixels=100)],
        [2, 1],
        batch_size=6,
        seed=3,
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_is_a_function_of_its_number(name):
    sampler = SAMPLERS[name]
    stream = [draw for step in range(20) for draw in sampler.draws(step)]
    assert [draw.number for draw in stream] == list(range(120))
    for number in (119, 0, 57):  # in any order, from nothing
        assert sampler.draw(number) == stream[number]
    assert all(0 <= draw.index < 300 for draw in stream)
    sampler.observe(0, [1], [2.0])  # takes no notice
    assert sampler.draws(0) == stream[:6]


@given(size=st.integers(1, 3000), key=st.integers(0, 2**32))
@settings(deadline=None)
def test_a_permutation_is_one(size, key):
    assert sorted(permuted(i, size, key) for i in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 16, 100])
def test_every_place_of_a_permutation_is_as_probable(size):
    keys = range(4000)
    first = np.bincount([permuted(0, size, 7, key) for key in keys], minlength=size)
    assert chisquare(first).pvalue > 1e-4
    if size == 2:
        return  # the second follows from the first
    pairs = [(permuted(size - 1, size, 7, key) - permuted(0, size, 7, key)) % size for key in keys]
    assert chisquare(np.bincount(pairs, minlength=size)[1:]).pvalue > 1e-4


def test_ten_million_images_cost_no_memory_and_repeat_only_after_an_epoch():
    sampler = Uniform(10_000_000, batch_size=100, seed=0)
    drawn = [draw.index for step in range(100) for draw in sampler.draws(step)]
    assert len(set(drawn)) == len(drawn)
    assert np.corrcoef(drawn[:-1], drawn[1:])[0, 1] < 0.05
    assert sum(before < after for before, after in pairwise(drawn)) == pytest.approx(5000, abs=300)


def test_epochs_have_orders_of_their_own():
    sampler = Uniform(50, batch_size=50, seed=0)
    orders = [tuple(draw.index for draw in sampler.draws(epoch)) for epoch in range(4)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != tuple(draw.index for draw in Uniform(50, batch_size=50, seed=1).draws(0))


def test_rare_class_draws_follow_the_softmax_of_rarity():
    sampler = RareClass(PIXELS, batch_size=1, seed=0, temperature=0.5, min_pixels=100)
    frequency = PIXELS.sum(0) / PIXELS.sum()
    expected = np.exp((1 - frequency) / 0.5)
    expected /= expected.sum()
    draws = [sampler.draw(number) for number in range(8000)]
    wanted = np.array([draw.wanted_class for draw in draws])
    assert chisquare(np.bincount(wanted, minlength=4), expected * len(draws)).pvalue > 1e-4
    assert all(PIXELS[draw.index, draw.wanted_class] >= 100 for draw in draws)
    of_third = np.flatnonzero(PIXELS[:, 3] >= 100)
    images = [draw.index for draw in draws if draw.wanted_class == 3]
    assert chisquare(np.bincount(images, minlength=300)[of_third]).pvalue > 1e-4


def test_rare_class_at_the_papers_temperature_hardly_asks_for_common_classes():
    sampler = RareClass(PIXELS, batch_size=1, seed=0, min_pixels=1)
    assert sampler.probabilities[0] < 1e-6
    assert sampler.probabilities[3] == max(sampler.probabilities)


def test_a_class_that_no_image_holds_is_announced_and_never_asked_for(caplog):
    pixels = np.column_stack([PIXELS, np.full(300, 5)])
    with caplog.at_level(logging.WARNING):
        sampler = RareClass(pixels, batch_size=1, seed=0, min_pixels=100, temperature=1.0)
    assert "no image has 100 pixels of them: 4" in caplog.text
    assert sampler.probabilities[4] == 0
    assert {sampler.draw(n).wanted_class for n in range(200)} == {0, 1, 2, 3}
    with pytest.raises(DataError, match="lower min_pixels"):
        RareClass(PIXELS, batch_size=1, seed=0, min_pixels=10**9)


def test_class_uniform_draws_half_by_class_and_half_by_image():
    sampler = ClassUniform(PIXELS, batch_size=1, seed=0)
    draws = [sampler.draw(number) for number in range(6000)]
    wanted = np.array([draw.wanted_class for draw in draws])
    by_class = wanted[wanted >= 0]
    assert abs(len(by_class) - 3000) < 5 * np.sqrt(6000 / 4)
    assert chisquare(np.bincount(by_class, minlength=4)).pvalue > 1e-4
    assert all(PIXELS[draw.index, draw.wanted_class] > 0 for draw in draws if draw.wanted_class >= 0)


@settings(deadline=None, max_examples=40)
@given(
    shares=st.lists(st.floats(0.02, 10), min_size=1, max_size=5),
    batch_size=st.integers(1, 9),
    count=st.integers(1, 900),
)
def test_shares_hold_exactly_and_sources_see_their_draws_in_order(shares, batch_size, count):
    samplers = [Uniform(37, batch_size=batch_size, seed=1, source=s) for s in range(len(shares))]
    mixture = Mixture(samplers, shares, batch_size=batch_size, seed=1)
    steps = -(-count // batch_size)
    places = [mixture.place(number) for number in range(steps * batch_size)]
    for source, share in enumerate(mixture.shares):
        ordinals = sorted(ordinal for which, ordinal in places if which == source)
        assert ordinals == list(range(len(ordinals)))
        assert abs(len(ordinals) - share * len(places)) <= len(shares)
    number = count - 1
    source, ordinal = places[number]
    assert mixture.draw(number) == Draw(number, source, samplers[source].draw(ordinal).index)


def test_no_source_keeps_to_one_rank():
    samplers = [Uniform(10, batch_size=4, seed=0, source=s) for s in range(2)]
    mixture = Mixture(samplers, [3, 1], batch_size=4, seed=0)
    slots = [[draw.source for draw in mixture.draws(step)].index(1) for step in range(2000)]
    assert chisquare(np.bincount(slots, minlength=4)).pvalue > 1e-4


def test_ranks_cut_the_stream_without_gap_or_overlap():
    draws = SAMPLERS["rare_class"].draws(5)
    for world_size in (1, 2, 3, 6):
        assert [draw for rank in range(world_size) for draw in rank_slice(draws, rank, world_size)] == draws
    with pytest.raises(ValueError, match="multiple of 4"):
        rank_slice(draws, 0, 4)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        rank_slice(draws, 2, 2)


def test_uniform_numbers_are_one_stream_wherever_it_is_entered():
    whole = uniforms(5, 7, 0, 1000)
    for first, count in ((0, 1), (1, 7), (4, 4), (333, 667)):
        np.testing.assert_array_equal(uniforms(5, 7, first, count), whole[first : first + count])
    assert not np.isin(uniforms(5, 8, 0, 1000), whole).any()
    assert not np.isin(uniforms(6, 7, 0, 1000), whole).any()


def test_a_source_that_is_never_drawn_is_an_error():
    counts = DrawCounts(["gta5", "generated"], [0.5, 0.5])
    counts.add([99, 0])
    with pytest.raises(DataError, match="generated is configured, but none of 100 draws came from it"):
        counts.add([1, 0])
    with pytest.raises(DataError, match="its share is 0"):
        DrawCounts(["gta5", "generated"], [1.0, 0.0])
    rare = DrawCounts(["gta5", "generated"], [0.99, 0.01])
    rare.add([1999, 0])  # nothing strange yet
    with pytest.raises(DataError, match="none of 2000"):
        rare.add([1, 0])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Uniform(0, batch_size=1, seed=0), "has no samples"),
        (lambda: Uniform(1, batch_size=0, seed=0), "batch_size"),
        (lambda: RareClass(PIXELS, batch_size=1, seed=0, temperature=0), "temperature"),
        (lambda: RareClass(PIXELS, batch_size=1, seed=0, min_pixels=0), "min_pixels"),
        (lambda: ClassUniform(PIXELS, batch_size=1, seed=0, share=1.5), "share"),
        (lambda: Mixture([Uniform(5, batch_size=1, seed=0)], [1, 2], batch_size=1, seed=0), "1 samplers"),
        (lambda: Mixture([Uniform(5, batch_size=1, seed=0)], [0], batch_size=1, seed=0), "never be drawn"),
        (lambda: Mixture([Uniform(5, batch_size=1, seed=0, source=1)], [1], batch_size=1, seed=0), "source=0"),
        (lambda: SAMPLERS["uniform"].load_state_dict({"step": 1}), "of another sampler"),
    ],
)
def test_wrong_settings_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_random_numbers_cannot_take_are_refused_at_once(seed):
    with pytest.raises(ValueError, match="seed is"):
        Uniform(9, batch_size=2, seed=seed)


def test_the_end_of_a_short_run_judges_too():
    counts = DrawCounts(["first", "second"], [0.5, 0.5])
    counts.add([39, 0])
    counts.end()
    counts.add([1, 0])
    with pytest.raises(DataError, match="second is configured, but none of 40 draws"):
        counts.end()
