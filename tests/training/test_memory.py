"""Page faults of a training step, counted by the kernel: noise on the machine does not change them."""

import os
import platform
import subprocess
import sys

import pytest

from dgseg.training.memory import ENVIRONMENT

STEPS = """
import resource, sys, threading
import torch
from torch import nn
from dgseg.training.memory import keep_freed_memory

if sys.argv[1] == "called":
    assert keep_freed_memory()
torch.set_num_threads(1)

def steps():
    layers = [module for _ in range(4) for module in (nn.Conv2d(32, 32, 1), nn.ReLU())]
    model, images = nn.Sequential(*layers), torch.zeros(8, 32, 192, 192)  # maps of 38 MB
    counts = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        model(images).sum().backward()
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(counts[-1])

if sys.argv[2] == "thread":
    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
else:
    steps()
"""


def faults(how: str, where: str) -> int:
    environment = os.environ | (ENVIRONMENT if how == "environment" else {})
    done = subprocess.run(
        [sys.executable, "-c", STEPS, how, where], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep or give back as they like")
def test_page_faults_of_a_step() -> None:
    usual = faults("not", "here")
    assert usual > 10_000
    for how, where in (("called", "here"), ("called", "thread"), ("environment", "thread")):
        assert faults(how, where) < usual / 20, f"{how}, {where}"
