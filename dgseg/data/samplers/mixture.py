"""Several sources with fixed shares."""

from collections.abc import Sequence
from fractions import Fraction

from dgseg.data.sample import Draw
from dgseg.data.samplers.base import Purpose, SourceSampler, StatelessSampler
from dgseg.data.samplers.permutation import permuted


class Mixture(StatelessSampler):
    """Draw n belongs to a source by arithmetic, not by chance: of any first n draws every source has its share to
    within as many draws as there are sources. Each source's own sampler sees its draws numbered 0, 1, 2, … without
    gaps, so that epochs stay whole. Within a global batch the order is shuffled: no source keeps to one rank."""

    def __init__(
        self, samplers: Sequence[SourceSampler], shares: Sequence[float], *, batch_size: int, seed: int
    ) -> None:
        super().__init__(batch_size, seed)
        if not samplers or len(samplers) != len(shares):
            raise ValueError(f"{len(samplers)} samplers came with {len(shares)} shares; each source needs both")
        for position, sampler in enumerate(samplers):
            if sampler.source != position:
                raise ValueError(f"sampler {position} draws from source {sampler.source}; give it source={position}")
        for position, share in enumerate(shares):
            if not share > 0:
                raise ValueError(f"source {position} has share {share} and would never be drawn: remove it")
        whole = sum(shares)
        self.samplers = tuple(samplers)
        self.sizes = tuple(sampler.size for sampler in samplers)
        self.shares = tuple(share / whole for share in shares)
        # Each source's part of what the sources before it leave.
        exact = [Fraction(share).limit_denominator(1_000_000) for share in self.shares]
        if not all(exact):
            raise ValueError(f"shares {list(shares)}: one below a millionth would never be drawn; remove it")
        self._parts = [part / sum(exact[position:]) for position, part in enumerate(exact)]

    def place(self, number: int) -> tuple[int, int]:
        """(source, how many draws of that source came before)."""
        step, slot = divmod(number, self.batch_size)
        rest = step * self.batch_size + permuted(slot, self.batch_size, self.seed, Purpose.MIXTURE_ORDER, step)
        for source, part in enumerate(self._parts):
            before, after = _rounded(rest, part), _rounded(rest + 1, part)
            if after > before:
                return source, before
            rest -= before
        raise AssertionError("the last source takes everything that is left")

    def draw(self, number: int) -> Draw:
        source, ordinal = self.place(number)
        drawn = self.samplers[source].draw(ordinal)
        return Draw(number, source, drawn.index, drawn.wanted_class)


def _rounded(count: int, part: Fraction) -> int:
    return (2 * count * part.numerator + part.denominator) // (2 * part.denominator)
