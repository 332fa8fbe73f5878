"""Peak extra memory of one call: how far the high-water mark rises above what was held before."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {field}")


def why_not(device: torch.device) -> str | None:
    """Why peak memory cannot be measured here, or None."""
    if device.type == "cuda":
        return None
    try:
        _CLEAR_REFS.write_text("5")
    except OSError as error:
        return f"peak memory is not measured: {_CLEAR_REFS} cannot be written ({error.strerror})"
    return None


def peak_extra(run: Callable[[], Any], device: torch.device) -> int:
    """Bytes, outputs included. Call it on warm functions: the first call also loads code and starts threads."""
    gc.collect(1)  # the young: walking all of torch's modules takes a third of a second, and they hold no tensors
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        del result
        return peak
    # The C library keeps freed blocks: handed back first, so that using them again counts.
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR_REFS.write_text("5")  # the peak starts again from what is resident now
    before = _resident("VmRSS")
    result = run()
    peak = _resident("VmHWM") - before
    del result
    return max(peak, 0)
