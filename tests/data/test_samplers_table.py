"""The native table against float64 numpy on the same scores."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dgseg._host import HardnessTable


class Reference:
    """What the table must be, from the definition."""

    def __init__(self, size, beta, temperature):
        self.scores, self.beta, self.temperature, self.scale = np.full(size, np.nan), beta, temperature, 1.0

    def update(self, indices, losses):
        for i, loss in zip(indices, losses, strict=True):
            first = np.isnan(self.scores[i])
            self.scores[i] = loss if first else self.beta * self.scores[i] + (1 - self.beta) * loss

    def deviation(self):
        return 0.0 if np.isnan(self.scores).all() else np.nanstd(self.scores)

    def standardise(self):
        self.scale = self.deviation() or 1.0

    def probabilities(self):
        unseen = np.isnan(self.scores)
        h = np.where(unseen, 0 if unseen.all() else self.scores[~unseen].mean(), self.scores) / self.scale
        weights = np.exp((h - h.max()) / self.temperature)
        return weights / weights.sum()


updates = st.lists(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 50, width=32)), max_size=40), min_size=1, max_size=8
)


# The largest score falls, and what is left of the others was too small beside it for a double.
@example(size=2, beta=0.0, temperature=0.02, batches=[[(0, 47.0), (1, 32.0)], [(0, 43.0)]], standardised=False)
@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 600),
    beta=st.sampled_from([0.0, 0.5, 0.9]),
    temperature=st.sampled_from([0.02, 1.0, 30.0]),
    batches=updates,
    standardised=st.booleans(),
)
def test_probabilities_are_those_of_the_definition(size, beta, temperature, batches, standardised):
    table, reference = HardnessTable(size, beta=beta, temperature=temperature), Reference(size, beta, temperature)
    for batch in batches:
        indices = np.array([i % size for i, _ in batch], np.int64)
        losses = np.array([loss for _, loss in batch])
        for each in (table, reference):
            each.update(indices, losses)
        # Scores that rounding alone tells apart have no standard deviation worth comparing.
        if standardised and reference.deviation() > 1e-6:
            table.standardise()
            reference.standardise()
        np.testing.assert_array_equal(table.scores(), reference.scores)
        assert table.seen == np.count_nonzero(~np.isnan(reference.scores))
        np.testing.assert_allclose(
            table.probabilities(np.arange(size)), reference.probabilities(), rtol=1e-7, atol=1e-250
        )


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 300), batches=updates, temperature=st.sampled_from([0.02, 1.0]))
def test_a_restored_table_goes_on_bit_by_bit(size, batches, temperature):
    table, other = (HardnessTable(size, temperature=temperature) for _ in range(2))
    u = np.random.default_rng(0).random(50)
    for turn, batch in enumerate(batches):
        indices = np.array([i % size for i, _ in batch], np.int64)
        losses = np.array([loss for _, loss in batch])
        table.update(indices, losses)
        if turn == len(batches) // 2:
            table.standardise()
            other.restore(table.scores(), table.scale, table.offset)
        elif turn > len(batches) // 2:
            other.update(indices, losses)
    everything = np.arange(size)
    np.testing.assert_array_equal(table.probabilities(everything), other.probabilities(everything))
    np.testing.assert_array_equal(table.draw(u), other.draw(u))
    assert (table.scale, table.offset, table.mean) == (other.scale, other.offset, other.mean)


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("seen", [0, 700, 2000])
def test_draws_follow_the_distribution(seen, standardised):
    random = np.random.default_rng(seen)
    table, reference = HardnessTable(2000, beta=0.8), Reference(2000, 0.8, 1.0)
    chosen = random.permutation(2000)[:seen]
    for _ in range(20 if seen else 0):
        indices = np.concatenate([chosen, random.choice(chosen, 500)])
        losses = random.gamma(1.0, 1.5, len(indices))
        table.update(indices, losses)
        reference.update(indices, losses)
    if standardised:
        table.standardise()
        reference.standardise()
    expected = reference.probabilities()
    drawn = np.bincount(table.draw(random.random(400_000)), minlength=2000)
    assert chisquare(drawn, expected * drawn.sum()).pvalue > 1e-4
    if 0 < seen < 2000:  # the group as a whole
        unseen = np.isnan(reference.scores)
        groups = [drawn[unseen].sum(), drawn[~unseen].sum()]
        assert (
            chisquare(groups, np.array([expected[unseen].sum(), expected[~unseen].sum()]) * sum(groups)).pvalue > 1e-4
        )


def test_many_updates_leave_no_drift():
    """A million updates through nine orders of magnitude; sums that were added to would remember them."""
    random = np.random.default_rng(3)
    table = HardnessTable(500, beta=0.5, temperature=0.1)
    for scale in (1e3, 1e-3, 1e6, 1e-6):
        table.update(random.integers(0, 500, 250_000), scale * random.random(250_000))
    table.update(np.repeat(np.arange(500), 200), np.ones(100_000))
    np.testing.assert_allclose(table.probabilities(np.arange(500)), 1 / 500, rtol=1e-12)


def test_it_holds_little_per_image():
    assert HardnessTable(1_000_000).bytes <= 24 * 1_000_000


BAD = [
    (lambda t: t.update([10], [1.0]), "index 10"),
    (lambda t: t.update([-1], [1.0]), "index -1"),
    (lambda t: t.update([0.5], [1.0]), "integers"),
    (lambda t: t.update([0], [float("nan")]), "nan of image 0"),
    (lambda t: t.update([0, 1], [1.0, float("inf")]), "inf of image 1"),
    (lambda t: t.update([0, 1], [1.0]), "2 indices came with 1 losses"),
    (lambda t: t.update([[0]], [[1.0]]), "vector"),
    (lambda t: t.draw(np.array([1.0])), "1.0"),
    (lambda t: t.draw(np.array([-0.1])), "-0.1"),
    (lambda t: t.draw(np.array([np.nan])), "nan"),
    (lambda t: t.restore(np.zeros(9), 1.0, 0.0), "9 scores"),
    (lambda t: t.restore(np.full(10, np.inf), 1.0, 0.0), "inf"),
    (lambda t: t.restore(np.zeros(10), 0.0, 0.0), "scale"),
    (lambda t: HardnessTable(0), "size 0"),
    (lambda t: HardnessTable(5, beta=1.0), "beta"),
    (lambda t: HardnessTable(5, temperature=0.0), "temperature"),
]


@pytest.mark.parametrize(("call", "named"), BAD)
def test_wrong_arguments_are_named_and_change_nothing(call, named):
    table = HardnessTable(10)
    table.update([3], [2.0])
    before = table.scores()
    with pytest.raises(ValueError, match=named):
        call(table)
    np.testing.assert_array_equal(table.scores(), before)
