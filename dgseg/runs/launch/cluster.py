"""The Ray cluster of a run: one that is there, or one of our own on this machine, for as long as the run lasts."""

import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dgseg.runs.launch.config import LaunchConfig

# Read by Ray when it is imported. The last one's name misleads: at 0, a node takes 127.0.0.1 for its address, and
# everything that it starts listens there alone.
PRIVATE = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
ATTEMPTS = 3  # at starting Ray
OBJECT_STORE = 100 * 2**20  # bytes: nothing large goes through it


@contextmanager
def cluster(launch: LaunchConfig) -> Iterator[LaunchConfig]:
    """Joins the cluster at launch.address, in RAY_ADDRESS, or that this process has joined already; without any, starts
    one that offers what the workers need. Gives back `launch` with nothing left open."""
    joined = "ray" in sys.modules and _is_initialized()
    own = not joined and launch.address is None and not os.environ.get("RAY_ADDRESS")
    if own:
        print("starting a Ray cluster on this machine for the run", file=sys.stderr, flush=True)
        make_private()
    import ray

    # What workers print stays in Ray's logs: what they have to say reaches the driver by its mailbox.
    quiet = {"logging_level": "warning", "log_to_driver": False}
    if own:
        share = launch.cpus_per_worker or max(1, (os.cpu_count() or 1) // launch.workers)
        launch = replace(launch, cpus_per_worker=share)
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would let everything else go first
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # no cloud takes this node away
        _start(num_cpus=share * launch.workers, object_store_memory=OBJECT_STORE, **quiet)
    elif not joined:
        try:
            ray.init(launch.address, **quiet)
        except ConnectionError as error:
            where = launch.address or os.environ["RAY_ADDRESS"]
            raise ValueError(
                f"there is no Ray cluster at {where!r}. Without --address and RAY_ADDRESS, one is started here"
            ) from error
    try:
        yield replace(launch, cpus_per_worker=launch.cpus_per_worker or 1)
    finally:
        if not joined:
            ray.shutdown()


def _start(**options: Any) -> None:
    import ray

    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init("local", include_dashboard=False, **options)
            return
        except Exception as error:  # Ray has no class for it: it waits 30 s, too few on a busy machine
            if "timed out" not in str(error):
                raise
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise ValueError(f"Ray did not start in {ATTEMPTS} attempts: {error}") from error
            print("Ray did not start within its 30 seconds: trying again", file=sys.stderr, flush=True)


def _is_initialized() -> bool:
    import ray

    return bool(ray.is_initialized())


def make_private() -> None:
    """Closed to others on this machine and beyond it: gRPC servers on 127.0.0.1 that ask for a token."""
    if "ray" in sys.modules:
        unset = [name for name, value in PRIVATE.items() if os.environ.get(name) != value]
        if unset:
            warnings.warn(
                f"ray was imported before {' and '.join(unset)} could be set: the cluster that is started now follows "
                f"Ray's defaults, and others can reach it over the network",
                stacklevel=4,
            )
        return
    os.environ.update(PRIVATE)
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
