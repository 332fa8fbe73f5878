"""Freed memory kept for the next step, on a CPU.

glibc maps every large buffer from the kernel and unmaps it when it is freed, so that a step gets all its activations
anew and pays for each page again: 53,000 page faults in a step of bisenet_mini on 8 images of 192x384. Kept in the
heap, the next steps find the same memory: no faults after a few of them. The heap has gaps, since buffers are aligned:
2 % more at the peak there, twice as much for a few maps of 38 MB each. Of a GPU's memory torch keeps its own.
"""

import ctypes
import resource
import sys

import torch

# mallopt's numbers, from glibc's malloc.h. One arena, because the others' heaps end at 64 MB, above which they map
# again: a launcher that trains in a thread would get one of them.
_OPTIONS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_ARENA_MAX": (-8, 1)}
# The same for processes that are yet to be started, such as a cluster's workers, whose threads may have their arenas
# before we are called.
KEEP_FREED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62), "MALLOC_ARENA_MAX": "1"}


def keep_freed_memory() -> bool:
    """For this process, as early as possible. False, and nothing else, where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # A list: every option is set, whatever the others say.
    return all([mallopt(option, value) == 1 for option, value in _OPTIONS.values()])  # noqa: C419


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: that torch held of the GPU, or that this process held of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
