"""How often every source was drawn: a source that silently yields nothing is an error."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from dgseg.data.dataset import DataError
from dgseg.data.sample import Draw

log = logging.getLogger(__name__)
EXPECTED = 20  # a source that should have been drawn this often and never was: by chance once in 5e8
AT_LEAST = 100  # before that only the end of a run judges


class DrawCounts:
    def __init__(self, names: Sequence[str], shares: Sequence[float]) -> None:
        for name, share in zip(names, shares, strict=True):
            if not share > 0:
                raise DataError(f"source {name} is configured, but its share is {share}: remove it or give it a share")
        self.names = tuple(names)
        self.by_source = [0] * len(names)
        self._patience = [math.ceil(EXPECTED / share) for share in shares]

    @property
    def total(self) -> int:
        return sum(self.by_source)

    def as_dict(self) -> dict[str, int]:
        return dict(zip(self.names, self.by_source, strict=True))

    def add(self, counts: Sequence[int]) -> None:
        self.by_source = [before + more for before, more in zip(self.by_source, counts, strict=True)]
        if self.total >= AT_LEAST:
            self._refuse_absent()

    def _refuse_absent(self) -> None:
        for name, count, patience in zip(self.names, self.by_source, self._patience, strict=True):
            if count == 0 and self.total >= patience:
                raise DataError(
                    f"source {name} is configured, but none of {self.total} draws came from it ({self}): remove it, "
                    "raise its share, or check the sampler that draws by loss"
                )

    def end(self) -> None:
        """A run too short to judge by is not refused; that a source was left out is said."""
        log.info("draws per source: %s", self)
        self._refuse_absent()
        for name, count in zip(self.names, self.by_source, strict=True):
            if count == 0:
                log.warning("source %s is configured, but the run ended without a draw from it", name)

    def of(self, draws: Iterable[Draw]) -> list[int]:
        found = Counter(draw.source for draw in draws)
        return [found[source] for source in range(len(self.names))]

    def __str__(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in self.as_dict().items())
