"""Progress on stderr, so that what a command prints stays clean."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """On a terminal a bar, elsewhere a line for every tenth."""
    if not sys.stderr.isatty():
        yield _tenths(what, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _tenths(what: str, total: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if total and 10 * done // total > 10 * before // total:
            print(f"{what}: {done} of {total}, {100 * done // total} %", file=sys.stderr, flush=True)

    return advance


def advanced_by(progress: Callable[[int], None], total: int) -> Callable[[int, int], None]:
    """From images done so far, of a share of all, to those of `total` done since. A second pass over them does not
    count again."""
    before = 0

    def advance(done: int, of: int) -> None:
        nonlocal before
        now = max(before, total * done // of)
        progress(now - before)
        before = now

    return advance
