"""Sources, sampler and pipeline -> batches: the same pixels for any number of workers, ranks and restarts.

This process draws, workers decode and augment, torch's DataLoader carries. Everything random is a function of (seed,
draw number), and a rank's batch is its slice of the global one.

Tensors come from the workers by file descriptor (torch's default on Linux): memory that vanishes with its last user,
however that ends, where named files would be left behind by a killed job. At most workers · prefetch + 1 steps are
under way, each with two descriptors a view.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dgseg.data.dataset import DataError, Dataset
from dgseg.data.fetch import ORIGINAL, Fetcher, Loaded, Pipeline
from dgseg.data.labels import OUT_OF_DISTRIBUTION
from dgseg.data.sample import Batch, Draw, check_seed
from dgseg.data.samplers.base import Purpose, Sampler, StatelessSampler, rank_slice
from dgseg.data.samplers.counts import DrawCounts
from dgseg.data.workers import START_METHOD, death_of, end, new_workers

log = logging.getLogger(__name__)
LOG_EVERY = 1000  # steps
# Of fewer draws one cannot say what share is corrupt.
FEW_DRAWS = 10_000
# As many images without any class are no accident.
ENOUGH_VOID = 16
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Target:
    """The domain to adapt to. Its labels, should it have any, do not reach the pipeline."""

    dataset: Dataset
    sampler: StatelessSampler
    pipeline: Pipeline


@dataclass(frozen=True)
class _Job:
    step: int
    draws: list[Draw]
    target: list[Draw]


class _Jobs(TorchDataset[Loaded]):
    """What torch calls a dataset, and its workers hold."""

    def __init__(self, fetcher: Fetcher, target: Fetcher | None) -> None:
        self.fetcher, self.target = fetcher, target

    def __getitem__(self, job: _Job) -> Loaded:
        loaded = self.fetcher(job.step, job.draws)
        if self.target is None:
            return loaded
        target = self.target(job.step, job.target)
        return Loaded(loaded.step, loaded.draws, loaded.ids, loaded.views, loaded.corrupt + target.corrupt, target)


def _unchanged(loaded: Any) -> Any:  # typed as torch wants its collate_fn
    return loaded


class Loader:
    """Iterates over batches from `start_step` to `stop_step` (None: without end). `step` is the next one; iterating
    anew goes on from there.

    A corrupt file is named in the log and in `corrupt`, and another sample of its source takes its place. When more
    than `corrupt_share` of the files drawn are corrupt, loading stops; every rank counts what it draws itself."""

    def __init__(
        self,
        sources: Sequence[Dataset],
        sampler: Sampler,
        pipeline: Pipeline,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,  # micro-batches that the loop cuts a step's batch into
        workers: int = 0,
        seed: int = 0,
        start_step: int = 0,
        stop_step: int | None = None,
        prefetch: int = 2,  # steps per worker
        corrupt_share: float = 1e-3,
        target: Target | None = None,
        pin_memory: bool = False,
        start_method: str = START_METHOD,  # of the workers: "fork", "spawn", "forkserver"
    ) -> None:
        check_seed(seed)
        _check_sources(sources, sampler, batch_size, "sampler")
        if target:
            _check_sources([target.dataset], target.sampler, target.sampler.batch_size, "target sampler")
        if workers < 0 or prefetch < 1 or start_step < 0 or not 0 <= corrupt_share <= 1:
            raise ValueError(
                f"loader: workers {workers} and start_step {start_step} start at 0, prefetch {prefetch} at 1, and "
                f"corrupt_share {corrupt_share} lies in 0 to 1"
            )
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("loader: pin_memory speeds up copies to a GPU, and torch sees none; leave it out")
        self.sources, self.sampler, self.target = tuple(sources), sampler, target
        self.rank, self.world_size, self.parts = rank, world_size, parts
        self.workers, self.prefetch = workers, _bounded(prefetch, workers, sampler.lookahead)
        self.step, self.stop_step = start_step, stop_step
        self.corrupt_share, self.pin_memory, self.start_method = corrupt_share, pin_memory, start_method
        self.corrupt: dict[str, str] = {}  # path -> what is wrong with it
        self.draw_counts = DrawCounts(_names(sources), sampler.shares)
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        self._jobs = _Jobs(
            Fetcher(self.sources, pipeline, seed),
            Fetcher((target.dataset,), target.pipeline, seed, Purpose.TARGET_AUGMENTATION, labelled=False)
            if target
            else None,
        )
        self._samples = sum(map(len, self.sources)) + (len(target.dataset) if target else 0)
        self._per_step = (batch_size + (target.sampler.batch_size if target else 0)) // world_size
        self._void: int | None = 0  # images drawn while none had a class; None: one had
        self._others = 0  # draws of the other ranks whose corrupt files came with the state that this one goes on from
        # Both cuts fail here, not in the middle of a run.
        rank_slice(range(batch_size), rank, world_size, parts)
        if target:
            rank_slice(range(target.sampler.batch_size), rank, world_size, parts)

    def __iter__(self) -> Iterator[Batch]:
        drawn: dict[int, list[int]] = {}  # draws per source of the steps under way
        with new_workers() as workers:
            batches = iter(
                DataLoader(
                    self._jobs,
                    batch_size=None,
                    sampler=self._stream(drawn),
                    collate_fn=_unchanged,
                    num_workers=self.workers,
                    prefetch_factor=self.prefetch if self.workers else None,
                    multiprocessing_context=self.start_method if self.workers else None,
                    pin_memory=self.pin_memory,
                    generator=torch.Generator(),  # else it takes a number from the model's own
                )
            )
        first = True
        while True:
            try:
                loaded = next(batches)
            except StopIteration:
                self.draw_counts.end()
                return
            except Exception as error:
                death = death_of(workers) if isinstance(error, RuntimeError | OSError | EOFError) else ""
                end(workers)
                if not death:
                    raise
                raise RuntimeError(
                    f"loader: {death} before step {self.step} was there. SIGKILL: memory ran out, take fewer workers "
                    f"than {self.workers} or a smaller prefetch. SIGBUS: {SHARED_MEMORY} is too small (docker run "
                    "--shm-size). Otherwise workers=0 shows what happens"
                ) from error
            if first and self.workers:
                self._check_shared_memory(loaded.bytes)
            first = False
            self._account(loaded, drawn.pop(loaded.step))
            self._check_labels(loaded)
            yield self._batch(loaded)

    def state_dict(self) -> dict[str, Any]:
        """To be taken when all that was fetched has been trained and observed."""
        if self.sampler.step not in (None, self.step):
            raise ValueError(
                f"loader: {self.step} batches were fetched, the sampler has observed the losses of "
                f"{self.sampler.step}; a run that resumes from this would miss the others. Take the state after "
                "sampler.observe and before the next batch is fetched"
            )
        return {
            "step": self.step,
            "draws": self.draw_counts.as_dict(),
            "corrupt": dict(self.corrupt),
            "sampler": self.sampler.state_dict(),
        }

    def metrics(self) -> dict[str, float]:
        """For the log of the run."""
        draws = {f"data/draws/{name}": float(count) for name, count in self.draw_counts.as_dict().items()}
        return draws | {"data/corrupt": float(len(self.corrupt))} | self.sampler.metrics()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if tuple(state["draws"]) != self.draw_counts.names:
            raise ValueError(
                f"loader: the state is of sources {', '.join(state['draws'])}; here they are "
                f"{', '.join(self.draw_counts.names)}"
            )
        self.sampler.load_state_dict(state["sampler"])
        self.step = state["step"]
        self._others = self.step * self._per_step * (self.world_size - 1)
        self.draw_counts.by_source = list(state["draws"].values())
        self.corrupt = dict(state["corrupt"])

    def _stream(self, drawn: dict[int, list[int]]) -> Iterator[_Job]:
        for step in itertools.count(self.step):
            if self.stop_step is not None and step >= self.stop_step:
                return
            draws = self.sampler.draws(step)
            drawn[step] = self.draw_counts.of(draws)
            target = self.target.sampler.draws(step) if self.target else []
            yield _Job(
                step,
                rank_slice(draws, self.rank, self.world_size, self.parts),
                rank_slice(target, self.rank, self.world_size, self.parts),
            )

    def _account(self, loaded: Loaded, drawn: list[int]) -> None:
        assert loaded.step == self.step, "batches come in the order of their steps"
        self.step += 1
        self.draw_counts.add(drawn)
        if self.step % LOG_EVERY == 0:
            log.info("step %d: draws per source: %s; corrupt files: %d", self.step, self.draw_counts, len(self.corrupt))
        for found in loaded.corrupt:
            if found.path not in self.corrupt:
                self.corrupt[found.path] = found.reason
                log.warning("corrupt file, replaced by another sample (draw %d): %s", found.number, found.reason)
        draws = self.step * self._per_step + self._others
        drawn_here = min(max(draws, FEW_DRAWS), self._samples)
        if len(self.corrupt) > self.corrupt_share * drawn_here:
            raise DataError(
                f"{len(self.corrupt)} corrupt files after {draws} draws from {self._samples} "
                f"samples are more than the accepted share of {self.corrupt_share:g}: "
                f"{'; '.join(list(self.corrupt.values())[:10])}. Mend them, or let `dgseg data check "
                "--quarantine` list them so that training skips them"
            )

    def _check_labels(self, loaded: Loaded) -> None:
        """Until a first image has a class: labels that are void everywhere train nothing, and no loss would say so."""
        labels = [labels for _, labels in loaded.views.values() if labels is not None]
        if self._void is None or not labels:
            return
        if any(bool((each < OUT_OF_DISTRIBUTION).any()) for each in labels):
            self._void = None
            return
        self._void += len(loaded.ids)
        if self._void >= min(ENOUGH_VOID, self._samples):
            raise DataError(
                f"the labels of all {self._void} images drawn so far ({', '.join(loaded.ids[:3])} …) are void: there "
                f"is nothing to learn. `dgseg data check` says which ids the files hold"
            )

    def _batch(self, loaded: Loaded) -> Batch:
        domains = [self.sources[draw.source].domain for draw in loaded.draws]
        target = None
        if self.target and loaded.target:
            target = _assembled(
                loaded.target, np.zeros(1, np.int64), [self.target.dataset.domain] * len(loaded.target.ids)
            )
        return _assembled(loaded, self._starts, domains, target)

    def _check_shared_memory(self, step_bytes: int) -> None:
        if not SHARED_MEMORY.is_dir():
            return
        wanted, free = step_bytes * (self.workers * self.prefetch + 1), shutil.disk_usage(SHARED_MEMORY).free
        if wanted > free:
            log.warning(
                "%s has %d MB left, and %d workers with prefetch %d hold up to %d MB there: enlarge it or lower them",
                SHARED_MEMORY, free >> 20, self.workers, self.prefetch, wanted >> 20,
            )  # fmt: skip


def _assembled(loaded: Loaded, starts: Any, domains: list[str], target: Batch | None = None) -> Batch:
    sources = torch.tensor([draw.source for draw in loaded.draws])
    indices = torch.tensor([int(starts[draw.source]) + draw.index for draw in loaded.draws])
    draws = torch.tensor([draw.number for draw in loaded.draws])

    def view(name: str, views: dict[str, Batch], target: Batch | None) -> Batch:
        images, labels = loaded.views[name]
        return Batch(images, labels, loaded.ids, draws, indices, sources, views, target, domains)

    others = {name: view(name, {}, None) for name in loaded.views if name != ORIGINAL}
    return view(ORIGINAL, others, target)


def _names(sources: Sequence[Dataset]) -> list[str]:
    """Different for every source: two of one name are told apart by their domains, if that does by their places."""
    names = [source.name for source in sources]
    names = [f"{n}/{s.domain}" if names.count(n) > 1 else n for n, s in zip(names, sources, strict=True)]
    return [f"{name} {place}" if names.count(name) > 1 else name for place, name in enumerate(names)]


def _bounded(prefetch: int, workers: int, lookahead: int | None) -> int:
    """Steps per worker, such that all together stay within what the sampler can draw ahead; if possible with one to
    spare, for a loop that takes the next batch before it reports the last one's losses."""
    if not workers or lookahead is None:
        return prefetch
    if workers > lookahead:
        raise ValueError(
            f"loader: {workers} workers work on {workers} steps at once, and the sampler draws {lookahead} ahead (the "
            f"hardness window): take at most {lookahead} workers or a longer window"
        )
    return min(prefetch, max(1, (lookahead - 1) // workers))


def _check_sources(sources: Sequence[Dataset], sampler: Sampler, batch_size: int, what: str) -> None:
    for source in sources:
        if len(source) == 0:
            raise DataError(f"source {source.name} has no samples: remove it or mend its list of files")
    sizes = tuple(len(source) for source in sources)
    if sampler.sizes != sizes:
        names = ", ".join(f"{source.name} {len(source)}" for source in sources)
        raise DataError(
            f"loader: the {what} draws from sources of {list(sampler.sizes)} samples, the sources are {names}; a "
            "source that nothing draws from must be removed"
        )
    if sampler.batch_size != batch_size:
        raise ValueError(f"loader: batch_size is {batch_size}, the {what} makes batches of {sampler.batch_size}")
