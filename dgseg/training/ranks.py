"""Several processes of this machine that work on one thing together: how they start, meet, stop and fail."""

import datetime
import os
import pickle
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException, start_processes

from dgseg.training.failures import WorkerFailed, is_retryable
from dgseg.training.interrupt import Interrupt

R = TypeVar("R")
GRACE = 10.0  # seconds that the other ranks have to end by themselves when one has failed


def run_ranks(
    work: Callable[..., R],
    *arguments: Any,
    ranks: int,
    threads: int | None = None,
    device: str = "auto",
    timeout: float = 600.0,
) -> R:
    """What work(*arguments) returns on rank 0. Every rank begins with a process group, over loopback.

    Signals are relayed to the ranks, which may save; KeyboardInterrupt where one ends them. WorkerFailed where one
    fails. threads: of each rank; None: its share of the cores."""
    with tempfile.TemporaryDirectory(prefix="dgseg-") as name:
        folder = Path(name)
        setting = (ranks, threads or max(1, (os.cpu_count() or 1) // ranks), device, timeout)
        processes = start_processes(_rank, (folder, setting, work, arguments), ranks, join=False)

        def relay(number: int) -> None:
            for process in processes.processes:
                if process.is_alive():
                    os.kill(process.pid, number)

        with Interrupt(relay, relay).listening() as interrupt:
            try:
                while not processes.join(grace_period=GRACE):
                    pass
            except (ProcessExitedException, ProcessRaisedException):
                if interrupt.requested:
                    raise KeyboardInterrupt from None
                raise _failure(folder, processes) from None
        if not (folder / "result").exists():  # a rank that ends of a signal is no failure to torch
            raise KeyboardInterrupt
        return cast(R, pickle.loads((folder / "result").read_bytes()))


def _rank(
    rank: int, folder: Path, setting: tuple[int, int, str, float], work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    # The terminal's Ctrl-C reaches the parent alone, which relays it: a rank that heard it twice would not save.
    os.setpgid(0, 0)
    # A shell starts what runs in its background with SIGINT ignored, and processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ranks, threads, device, timeout = setting
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ.update({key: str(value) for key, value in variables.items()})
    if "lo" in [interface for _, interface in socket.if_nameindex()]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # out of other machines' reach
    torch.set_num_threads(threads)
    try:
        dist.init_process_group(
            "nccl" if device != "cpu" and torch.cuda.is_available() else "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=ranks,
            timeout=datetime.timedelta(seconds=timeout),
        )
        result = work(*arguments)
        if rank == 0:
            (folder / "result").write_bytes(pickle.dumps(result))
        dist.destroy_process_group()
    except Exception as error:
        (folder / f"failed.{rank}").write_bytes(pickle.dumps((error, traceback.format_exc())))
        sys.exit(1)


def _failure(folder: Path, processes: ProcessContext) -> WorkerFailed:
    """The failure that explains the others."""
    raised = {int(path.suffix[1:]): pickle.loads(path.read_bytes()) for path in sorted(folder.glob("failed.*"))}
    failures = [WorkerFailed(f"worker {rank} failed:\n{text}", error) for rank, (error, text) in raised.items()]
    for failure in failures:
        if failure.error is not None and not is_retryable(failure.error):
            return failure
    # A killed worker makes the others fail too: report the kill, not their errors.
    for rank, process in enumerate(processes.processes):
        if process.exitcode < 0 and process.exitcode != -signal.SIGTERM:
            return WorkerFailed(f"worker {rank} was killed by {signal.Signals(-process.exitcode).name}")
    codes = ", ".join(str(process.exitcode) for process in processes.processes)
    return failures[0] if failures else WorkerFailed(f"the workers ended with exit codes {codes}")
