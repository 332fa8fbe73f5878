"""Page faults of a training step, counted by the kernel: noise on the machine does not change them."""

import os
import platform
import resource
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from torch import nn

from dgseg.training.memory import ENVIRONMENT, keep_freed_memory
from tests.training import processes


def faults() -> int:
    """Of a step whose maps have 38 MB each; the least, because the heap takes some steps to find its size."""
    layers = [nn.Conv2d(32, 32, 1), nn.ReLU()]
    model, images = nn.Sequential(*layers), torch.zeros(8, 32, 192, 192)
    counts = []
    for _ in range(15):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        model(images).sum().backward()
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts)


def count(kept: bool, found: Any) -> None:
    if kept:
        assert keep_freed_memory()
    found.put(faults())


def in_a_child(kept: bool) -> int:
    found = processes.queue()
    processes.finish(processes.start(count, kept, found))
    return int(found.get())


def in_a_started_thread() -> None:
    """As a launcher's worker trains: the script that the test below starts."""
    torch.set_num_threads(1)
    thread = threading.Thread(target=lambda: print(faults()))
    thread.start()
    thread.join()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep or give back as they like")
def test_page_faults_of_a_step() -> None:
    usual = in_a_child(kept=False)
    assert usual > 10_000
    assert in_a_child(kept=True) < usual / 20
    script = "from tests.training.test_memory import in_a_started_thread; in_a_started_thread()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < usual / 20
