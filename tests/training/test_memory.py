"""Page faults of a training step, counted by the kernel: noise on the machine does not change them."""

import os
import platform
import resource
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from dgseg.training.memory import KEEP_FREED, keep_freed_memory


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


def usually() -> None:
    print(faults())


def kept() -> None:
    assert keep_freed_memory()
    print(faults())


def in_a_started_thread() -> None:
    """As a launcher's worker trains."""
    torch.set_num_threads(1)
    thread = threading.Thread(target=usually)
    thread.start()
    thread.join()


def told_by(function: str, **environment: str) -> int:
    """In a process of its own: this one's allocator may have been set already, and a fork inherits it."""
    script = f"from tests.training.test_memory import {function}; {function}()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep or give back as they like")
def test_page_faults_of_a_step() -> None:
    usual = told_by("usually")
    assert usual > 10_000
    assert told_by("kept") < usual / 20
    assert told_by("in_a_started_thread", **KEEP_FREED) < usual / 20
