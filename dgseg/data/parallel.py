"""One function over many indices in a pool of processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from dgseg.data.dataset import DataError

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
