import os
from collections.abc import Iterator

import pytest
import torch


def pytest_configure() -> None:
    """pytest's processes share the cores, and so do those that their tests start."""
    if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, torch.get_num_threads() // int(processes))
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The process's thread count is set back: last digits of later tests depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
