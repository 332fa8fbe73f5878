"""What a loader's worker does: draws in, stacked tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from dgseg.data.dataset import CorruptFile, DataError, Dataset
from dgseg.data.parallel import in_threads
from dgseg.data.sample import Draw, LazySample, Sample, generator
from dgseg.data.samplers.base import Purpose

# "original" becomes Batch.images and .labels, every other key a Batch of Batch.views.
Pipeline = Callable[[Sample | LazySample, np.random.Generator, Draw], Mapping[str, Sample]]
ORIGINAL = "original"
ATTEMPTS = 8  # so many corrupt files in a row are no longer single ones


@dataclass(frozen=True)
class Corrupt:
    """A file that could not be used, and the draw that met it."""

    path: str
    reason: str
    number: int


@dataclass(frozen=True)
class Loaded:
    """One step's samples on their way from a worker: two tensors a view and little else, because every tensor costs a
    file descriptor while it waits."""

    step: int
    draws: list[Draw]  # as they were loaded, substitutes included
    ids: list[str]
    views: dict[str, tuple[Tensor, Tensor | None]]  # images, labels
    corrupt: list[Corrupt]
    target: Loaded | None = None

    @property
    def bytes(self) -> int:
        own = sum(tensor.nbytes for view in self.views.values() for tensor in view if tensor is not None)
        return own + (self.target.bytes if self.target else 0)

    def pin_memory(self) -> Loaded:
        return replace(
            self,
            views={
                name: (images.pin_memory(), None if labels is None else labels.pin_memory())
                for name, (images, labels) in self.views.items()
            },
            target=self.target.pin_memory() if self.target else None,
        )


@dataclass(frozen=True)
class Fetcher:
    """Travels to the workers by pickle."""

    sources: tuple[Dataset, ...]
    pipeline: Pipeline
    seed: int
    purpose: int = 0
    labelled: bool = True

    def __call__(self, step: int, draws: Sequence[Draw]) -> Loaded:
        made = in_threads(self._load, draws)
        loaded = [(draw, views) for draw, views, _ in made]
        corrupt = [each for _, _, found in made for each in found]
        names = list(loaded[0][1])
        for draw, views in loaded:
            if list(views) != names or ORIGINAL not in views:
                raise DataError(
                    f"the pipeline made views {sorted(views)} of {self._name(draw)}; every sample must have the same, "
                    f'"{ORIGINAL}" among them: {sorted(names)}'
                )
        return Loaded(
            step,
            [draw for draw, _ in loaded],
            [views[ORIGINAL].id for _, views in loaded],
            {name: self._stacked(name, [(draw, views[name]) for draw, views in loaded]) for name in names},
            corrupt,
        )

    def _load(self, draw: Draw) -> tuple[Draw, Mapping[str, Sample], list[Corrupt]]:
        """The draw as it was loaded, its views, and the corrupt files that it met."""
        chosen, corrupt = draw, list[Corrupt]()
        for attempt in range(ATTEMPTS):
            try:
                sample = self.sources[chosen.source].lazy(chosen.index)
                if not self.labelled:
                    sample = _unlabelled(sample)
                return chosen, self.pipeline(sample, generator(self.seed, draw.number, self.purpose), chosen), corrupt
            except CorruptFile as error:
                corrupt.append(Corrupt(error.path, str(error), draw.number))
                # By (seed, draw) alone, so that any worker finds the same; it need not hold the wanted class.
                random = generator(self.seed, draw.number, Purpose.SUBSTITUTE)
                others = random.integers(len(self.sources[draw.source]), size=attempt + 1)
                chosen = Draw(draw.number, draw.source, int(others[-1]))
        raise DataError(
            f"draw {draw.number}: {ATTEMPTS} files in a row are corrupt, the last one {corrupt[-1].reason}. Check "
            f"{self.sources[draw.source].name} with `dgseg data check --quarantine`, and whether its disk is there"
        )

    def _stacked(self, view: str, loaded: list[tuple[Draw, Sample]]) -> tuple[Tensor, Tensor | None]:
        first = loaded[0][1]
        for draw, sample in loaded:
            if (sample.image.shape, sample.label is None) != (first.image.shape, first.label is None) or (
                sample.label is not None and sample.label.shape != sample.image.shape[-2:]
            ):
                raise DataError(
                    f"view {view}: {self._name(draw)} has image {_shape(sample.image)} and label "
                    f"{_shape(sample.label)}, {self._name(loaded[0][0])} has {_shape(first.image)} and "
                    f"{_shape(first.label)}: they do not make a batch. End the pipeline with a crop or a resize"
                )
        labels = [sample.label for _, sample in loaded if sample.label is not None]
        # In a worker default_collate stacks straight into shared memory.
        return default_collate([sample.image for _, sample in loaded]), default_collate(labels) if labels else None

    def _name(self, draw: Draw) -> str:
        return self.sources[draw.source].id(draw.index)


def _unlabelled(sample: Sample | LazySample) -> Sample | LazySample:
    if isinstance(sample, LazySample):
        return replace(sample, label=None)
    return replace(sample, label=None, views={name: replace(view, label=None) for name, view in sample.views.items()})


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else "x".join(map(str, tensor.shape))
