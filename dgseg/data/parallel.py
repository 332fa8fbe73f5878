"""One function over many indices in a pool of processes, or over a few things in torch's own number of threads."""

import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from dgseg.data.dataset import DataError

S = TypeVar("S")
T = TypeVar("T")

_function: Callable[[int], Any]


def each(
    function: Callable[[int], T],
    count: int,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[T]:
    """[function(0), …, function(count - 1)]. `workers`: None takes every core as far as the work is worth it, 1 stays
    in this process. `progress` hears how many more are done. `function` must not touch torch: processes are forked."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(1, min(cores, count // 32))
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}; 1 works without a pool")
    if workers == 1:
        results = []
        for index in range(count):
            results.append(function(index))
            if progress:
                progress(1)
        return results
    step = max(1, min(64, count // (8 * workers)))
    chunks: dict[int, list[T]] = {}
    # Forked, as loader workers are: a script then needs no guard around its main part.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    with ProcessPoolExecutor(workers, context, _remember, (function,)) as pool:
        futures = {pool.submit(_run, range(start, min(start + step, count))): start for start in range(0, count, step)}
        try:
            for future in as_completed(futures):
                chunks[futures[future]] = future.result()
                if progress:
                    progress(len(chunks[futures[future]]))
        except BrokenProcessPool as error:
            raise DataError("a worker process died, perhaps for want of memory; try fewer workers") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [result for start in sorted(chunks) for result in chunks[start]]


def _remember(function: Callable[[int], Any]) -> None:
    global _function
    _function = function


def _run(indices: Iterable[int]) -> list[Any]:
    return [_function(index) for index in indices]


def in_threads(function: Callable[[S], T], things: Sequence[S]) -> list[T]:
    """[function(each) for each in things], in as many threads as torch has in this one: decoders, renderers and torch's
    operators let go of the interpreter. In a loader's process, where torch has one, just that."""
    threads = torch.get_num_threads()
    if threads == 1 or len(things) < 2:
        return [function(each) for each in things]
    return list(_threads(threads).map(function, things))


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """In which torch's operators take one thread each: their teams would have more threads than there are cores."""
    pool = ThreadPoolExecutor(count, "dgseg data", torch.set_num_threads, (1,))
    started = threading.Barrier(count)
    for each in [pool.submit(started.wait) for _ in range(count)]:
        each.result()
    torch.set_num_threads(count)  # of threads that are started from now on
    return pool
