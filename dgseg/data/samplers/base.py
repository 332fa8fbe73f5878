"""What every sampler is: step -> the draws of the whole global batch, the same on every rank."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dgseg.data.dataset import DataError
from dgseg.data.sample import Draw, check_seed, generator

T = TypeVar("T")


class Purpose(IntEnum):
    """What random numbers are for: two purposes never share a stream. 0 is a sample's augmentation."""

    TARGET_AUGMENTATION = 1
    SUBSTITUTE = 2
    HARDNESS_BRANCH = 3
    HARDNESS_IMAGE = 4
    MIXTURE_ORDER = 5
    SOURCE = 16  # + source: the choices of that source's own sampler


class Sampler(ABC):
    """`draws` is a function of (seed, step) and, for samplers that learn, of what was observed. It may be called for a
    step as often as one likes, and ahead of training by up to `lookahead` steps."""

    batch_size: int  # global
    sizes: tuple[int, ...]  # samples of every source
    shares: tuple[float, ...]  # which part of the draws every source is configured to get
    lookahead: int | None = None  # None: any number of steps
    step: int | None = None  # the next to be observed, where a sampler learns

    @abstractmethod
    def draws(self, step: int) -> list[Draw]: ...

    def observe(
        self, step: int, indices: npt.ArrayLike, losses: npt.ArrayLike, valid: npt.ArrayLike | None = None
    ) -> None:
        """What the global batch of `step` lost, from all ranks: `Batch.indices`, mean loss per image, and which images
        had valid pixels at all. Samplers that do not learn take no notice."""
        return

    def metrics(self) -> dict[str, float]:
        """For the log of the run."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{type(self).__name__} has no state, but is given {sorted(state)}: of another sampler?")


class StatelessSampler(Sampler):
    """Every draw depends on (seed, number) alone."""

    def __init__(self, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        check_seed(seed)
        self.batch_size = batch_size
        self.seed = seed

    @abstractmethod
    def draw(self, number: int) -> Draw: ...

    def draws(self, step: int) -> list[Draw]:
        return [self.draw(number) for number in range(step * self.batch_size, (step + 1) * self.batch_size)]


class SourceSampler(StatelessSampler):
    """Draws from one source. `number` counts this source's draws where a mixture asks."""

    def __init__(self, size: int, batch_size: int, seed: int, source: int) -> None:
        super().__init__(batch_size, seed)
        if size < 1:
            raise DataError(f"source {source} has no samples: remove it or mend its list of files")
        self.source = source
        self.sizes = (0,) * source + (size,)
        self.shares = (0.0,) * source + (1.0,)

    @property
    def size(self) -> int:
        return self.sizes[self.source]

    def generator(self, number: int) -> np.random.Generator:
        return generator(self.seed, number, Purpose.SOURCE + self.source)


def uniforms(seed: int, purpose: int, first: int, count: int) -> npt.NDArray[np.float64]:
    """Numbers first, first + 1, … of an endless stream in [0, 1), without the ones before them."""
    start, skipped = divmod(first, 4)  # Philox counts in blocks of four
    bits = np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=[start, 0, 0, 0])
    return np.random.Generator(bits).random(skipped + count)[skipped:]


def rank_slice(draws: Sequence[T], rank: int, world_size: int, parts: int = 1) -> list[T]:
    """This rank's share of a global batch: its contiguous piece of each of the parts (the micro-batches of a step),
    which hence hold the same draws for any number of ranks."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}: ranks count from 0")
    if len(draws) % (world_size * parts):
        cut = f"{world_size} ranks" + (f" and {parts} micro-batches" if parts > 1 else "")
        raise ValueError(
            f"a global batch of {len(draws)} cannot be cut for {cut}: make batch_size a multiple of "
            f"{world_size * parts}, or use fewer"
        )
    each = len(draws) // (world_size * parts)
    starts = [(part * world_size + rank) * each for part in range(parts)]
    return [draw for start in starts for draw in draws[start : start + each]]
