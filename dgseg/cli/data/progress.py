"""A progress bar on stderr, so that what a command prints stays clean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
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


def advanced_by(progress: Callable[[int], None]) -> Callable[[int, int], None]:
    """From images done so far to images done since; a new pass over them begins anew and does not count again."""
    before = 0

    def advance(done: int, of: int) -> None:
        nonlocal before
        progress(max(0, done - before))
        before = max(done, before)

    return advance
