"""The Ray cluster of a run: one that is there, or one of our own on this machine, for as long as the run lasts."""

import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Read by Ray when it is imported. The last one's name misleads: at 0, a node takes 127.0.0.1 for its address, and
# everything that it starts listens there alone.
PRIVATE = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
OBJECT_STORE = 100 * 2**20  # bytes: nothing large goes through it


@contextmanager
def cluster(address: str | None, *, cpus: int, gpus: int = 0) -> Iterator[bool]:
    """Joins the cluster at `address`, in RAY_ADDRESS, or that this process has joined already; without any, starts
    one that offers `cpus` and `gpus`. Whether it is our own."""
    joined = "ray" in sys.modules and _is_initialized()
    own = not joined and address in (None, "local") and not os.environ.get("RAY_ADDRESS")
    if own:
        _make_private()
    import ray

    if joined:
        yield False
        return
    # What workers print stays in Ray's logs: what they have to say reaches the driver by its mailbox.
    quiet = {"logging_level": "warning", "log_to_driver": False}
    if own:
        ray.init(
            "local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            **quiet,
        )
    else:
        try:
            ray.init(address, **quiet)
        except ConnectionError as error:
            where = address or os.environ["RAY_ADDRESS"]
            raise ValueError(
                f"there is no Ray cluster at {where!r}. Without --address and RAY_ADDRESS, one is started here"
            ) from error
    try:
        yield own
    finally:
        ray.shutdown()


def _is_initialized() -> bool:
    import ray

    return bool(ray.is_initialized())


def _make_private() -> None:
    """Nobody else comes in, from this machine or another: gRPC servers on 127.0.0.1 that ask for a token."""
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
