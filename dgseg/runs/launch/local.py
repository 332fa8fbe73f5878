"""A recipe on this machine without Ray: in this process, in several that start here, or in one of torchrun's."""

import datetime
import os
import pickle
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, start_processes

from dgseg.runs.launch.command import Command
from dgseg.runs.launch.failures import PLAIN, WorkerFailed, again, passing
from dgseg.training.listener import Listener
from dgseg.training.train import RunResult, train

GRACE = 10.0  # seconds that the other workers have to end by themselves when one has failed


def run_here(command: Command, *, listeners: Callable[[], Sequence[Listener]] = tuple) -> RunResult:
    """`listeners` makes them, in the workers."""
    launch = command.launch
    if launch.min_workers is not None or launch.address is not None:
        raise ValueError("--min-workers and --address are for Ray: add --on ray")
    if launch.gpus_per_worker:
        raise ValueError(
            "--gpus-per-worker is for Ray, which sets GPUs aside: add --on ray. Here each worker takes one of this "
            "machine's, and --device cuda makes that a condition"
        )
    started = int(os.environ.get("WORLD_SIZE", "0"))
    if started and launch.workers not in (1, started):
        raise ValueError(f"--workers {launch.workers}, but torchrun has started {started}: leave the number to it")
    if launch.workers > 1 and not started:
        return _several(command, listeners)
    if launch.cpus_per_worker is not None:
        torch.set_num_threads(launch.cpus_per_worker)
    return train(command.recipe, command.run, listeners=listeners())


def _several(command: Command, listeners: Callable[[], Sequence[Listener]]) -> RunResult:
    allowed = command.launch.failures
    for attempt in range(1, allowed + 2):
        with tempfile.TemporaryDirectory(prefix="dgseg-") as name:
            folder = Path(name)
            workers = start_processes(_work, (command, listeners, folder), command.launch.workers, join=False)
            with _passing_on(workers) as signals:
                try:
                    while not workers.join(grace_period=GRACE):
                        pass
                    result: RunResult = pickle.loads((folder / "result").read_bytes())
                    return result
                except (ProcessExitedException, ProcessRaisedException):
                    failure, lasting = _failure(folder, workers)
        if signals:
            raise KeyboardInterrupt
        if lasting or attempt > allowed:
            break
        print(f"{failure}: {again(attempt, allowed)}", file=sys.stderr, flush=True)
    raise failure


def _work(rank: int, command: Command, listeners: Callable[[], Sequence[Listener]], folder: Path) -> None:
    # The terminal's Ctrl-C reaches the parent alone, which passes it on: a worker that heard it twice would not save.
    os.setpgid(0, 0)
    workers, run = command.launch.workers, command.run
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": workers, "LOCAL_WORLD_SIZE": workers}
    os.environ.update({key: str(value) for key, value in places.items()})
    if "lo" in [interface for _, interface in socket.if_nameindex()]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else's business
    torch.set_num_threads(command.launch.cpus_per_worker or max(1, (os.cpu_count() or 1) // workers))
    try:
        dist.init_process_group(
            "nccl" if run.device != "cpu" and torch.cuda.is_available() else "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=workers,
            timeout=datetime.timedelta(seconds=run.timeout),
        )
        result = train(command.recipe, run, listeners=listeners())
        if rank == 0:
            (folder / "result").write_bytes(pickle.dumps(result))
        dist.destroy_process_group()
    except Exception as error:
        (folder / f"failed.{rank}").write_bytes(pickle.dumps((error, traceback.format_exc())))
        sys.exit(1)


def _failure(folder: Path, workers: ProcessContext) -> tuple[Exception, bool]:
    """What to tell, and whether another attempt would end alike."""
    raised = {path.suffix[1:]: pickle.loads(path.read_bytes()) for path in sorted(folder.glob("failed.*"))}
    for rank, (error, text) in raised.items():
        if not passing(error):
            return error if isinstance(error, PLAIN) else WorkerFailed(f"worker {rank} failed:\n{text}"), True
    # One that is killed takes the others with it, whose complaints tell nothing.
    for place, process in enumerate(workers.processes):
        if process.exitcode < 0 and process.exitcode != -signal.SIGTERM:
            return WorkerFailed(f"worker {place} was killed by {signal.Signals(-process.exitcode).name}"), False
    for rank, (error, text) in raised.items():
        return error if isinstance(error, PLAIN) else WorkerFailed(f"worker {rank} failed:\n{text}"), False
    codes = ", ".join(str(process.exitcode) for process in workers.processes)
    return WorkerFailed(f"the workers ended with exit codes {codes}"), False


@contextmanager
def _passing_on(workers: ProcessContext) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go to every worker, whose loop knows what to do; here they are noted."""
    heard: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        for process in workers.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
