"""Several processes for one command: torchrun's, a launcher's, or N of this machine that the command starts itself."""

import multiprocessing
import os
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from dgseg.training.world import World, join

Device = Literal["auto", "cpu", "cuda"]


@contextmanager
def local_ranks(processes: int, work: Callable[[Any, World], Any], arguments: Any, device: Device) -> Iterator[World]:
    """This process's place. With more than one process the others run work(arguments, world) meanwhile; this one is the
    first and does its share itself. The processes meet over loopback."""
    made = not dist.is_initialized()
    if processes == 1:
        try:
            yield join(device)
        finally:
            if made and dist.is_initialized():
                dist.destroy_process_group()
        return
    if not made or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a launcher has started several processes already; leave --processes out")
    threads = max(1, torch.get_num_threads() // processes)
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        common = (processes, threads, folder, work, arguments, device)
        others = [context.Process(target=_other, args=(rank, *common)) for rank in range(1, processes)]
        for process in others:
            process.start()
        try:
            yield _meet(0, processes, threads, folder, device)
        except RuntimeError as error:
            # A process that is gone shows as a broken connection: what it said last is the reason.
            said = [path.read_text() for path in sorted(Path(folder).glob("*.failed"))]
            if not said:
                raise
            raise RuntimeError("another process failed:\n" + said[0]) from error
        finally:
            dist.destroy_process_group()
            torch.set_num_threads(before)
            for process in others:
                process.join(timeout=5)
                process.kill()


def _other(
    rank: int,
    size: int,
    threads: int,
    folder: str,
    work: Callable[[Any, World], Any],
    arguments: Any,
    device: Device,
) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    try:
        work(arguments, _meet(rank, size, threads, folder, device))
    except Exception:
        Path(folder, f"{rank}.failed").write_text(traceback.format_exc())
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _meet(rank: int, size: int, threads: int, folder: str, device: Device) -> World:
    if any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    return join(device)
