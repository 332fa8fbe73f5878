"""The worker processes that torch's DataLoader starts: which they are, and how one of them died."""

import multiprocessing
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

# This system's own way. Python's default in a process that was spawned itself, as those of several on one machine are,
# is to spawn: each worker then imports everything first, which takes seconds at every evaluation.
START_METHOD = multiprocessing.get_all_start_methods()[0]


@contextmanager
def new_workers() -> Iterator[list[BaseProcess]]:
    """Holds, once the block is left, the processes that were started in it.

    torch reports a worker's death from a signal handler, out of whatever line runs then: one that writes a checkpoint,
    say. Its handler is taken off again: who waits for a batch finds the death too, within five seconds."""
    handler, others = signal.getsignal(signal.SIGCHLD), multiprocessing.active_children()
    workers: list[BaseProcess] = []
    yield workers
    workers += [process for process in multiprocessing.active_children() if process not in others]
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGCHLD, handler)


def death_of(workers: Collection[BaseProcess]) -> str:
    """How a worker ended that did not end well. One that is just dying closes its files first and shows its exit
    status a moment later."""
    ended = wait([worker.sentinel for worker in workers], timeout=1) if workers else []
    for worker in workers:
        if worker.sentinel in ended:
            worker.join(timeout=10)
        if worker.exitcode:
            how = signal.Signals(-worker.exitcode).name if worker.exitcode < 0 else f"exit status {worker.exitcode}"
            return f"a worker died ({how})"
    return ""


def end(workers: Collection[BaseProcess]) -> None:
    """At once. Left to torch they take five seconds each after an error, and one that died may have held a lock."""
    for worker in workers:
        worker.terminate()
