"""A training state, copied while training stands still, so that it can be written while training goes on."""

import ctypes
import mmap
from collections.abc import Mapping
from contextlib import suppress
from threading import Thread
from typing import Any

import torch
from torch import Tensor

WEIGHTS = ("model", "ema")  # parts of the state that become safetensors: flat, and read by everyone
_BLOCK, _ALIGNED = 64 * 2**20, 64  # bytes
_PLAIN: tuple[type[Any], ...] = (bool, int, float, str, bytes)


class Snapshot:
    """Buffers on the CPU, one per tensor of the state, used again by every copy: fresh memory costs page faults, which
    take longer than the copy, and huge pages make them few. Those for tensors of a GPU are pinned: their copies run at
    the bus's speed."""

    def __init__(self) -> None:
        self._memory = _Memory()
        self._buffers: dict[str, Tensor] = {}
        self._used: set[str] = set()
        self._devices: set[torch.device] = set()

    def reserve(self, nbytes: int) -> None:
        """Room for a first copy of about so many bytes, made while training goes on."""
        self._memory.reserve(nbytes)

    def copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The same state in plain containers. It is overwritten by the next copy."""
        self._used.clear()
        self._devices.clear()
        copied = {name: self._copy(value, name, weights=name in WEIGHTS) for name, value in state.items()}
        for name in self._buffers.keys() - self._used:
            del self._buffers[name]
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()
        return copied

    def _copy(self, value: Any, name: str, *, weights: bool = False) -> Any:
        if isinstance(value, Tensor):
            return self._buffer(value.detach().resolve_conj().resolve_neg(), name, weights)
        if isinstance(value, Mapping):
            return {
                self._key(key, name): self._copy(item, f"{name}.{key}", weights=weights) for key, item in value.items()
            }
        if weights and value is not None:
            raise ValueError(f"the state's {name} is {value!r}: among weights there are tensors alone")
        if isinstance(value, list | tuple):
            items = [self._copy(item, f"{name}.{index}") for index, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if value is None:
            return None
        for kind in _PLAIN:  # numpy.float64 is a float, too, and must become one
            if isinstance(value, kind):
                return kind(value)
        raise ValueError(
            f"the state's {name} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors, "
            "numbers, strings, lists and dicts, which load without running code: arrays with torch.from_numpy, "
            "objects by their state_dict()"
        )

    @staticmethod
    def _key(key: Any, name: str) -> str | int:
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise ValueError(f"the state's {name} has the key {key!r}; keys are strings or whole numbers")
        return key

    def _buffer(self, tensor: Tensor, name: str, weights: bool) -> Tensor:
        if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.is_quantized:
            kind = type(tensor).__name__ if type(tensor) is not Tensor else f"{tensor.layout} tensor"
            raise ValueError(f"the state's {name} is a {kind}; give an ordinary tensor (of a DTensor, full_tensor())")
        pinned = tensor.device.type == "cuda"
        # safetensors knows rows alone; elsewhere the optimiser wants its moments in the parameters' own order.
        order = torch.contiguous_format if weights else torch.preserve_format
        buffer = self._buffers.get(name)
        if buffer is None or not _fits(buffer, tensor, pinned, weights):
            if pinned:
                buffer = torch.empty_like(tensor, device="cpu", memory_format=order, pin_memory=True)
            else:
                buffer = self._memory.empty_like(tensor, order)
            self._buffers[name] = buffer
        if tensor.device.type == "cpu" and tensor.stride() == buffer.stride():
            # By this thread alone: hundreds of parallel copies on cores that loaders keep busy took ten times as long.
            ctypes.memmove(buffer.data_ptr(), tensor.data_ptr(), tensor.nbytes)
        else:
            buffer.copy_(tensor, non_blocking=pinned)
        self._used.add(name)
        if pinned:
            self._devices.add(tensor.device)
        return buffer


class _Memory:
    """Tensors in huge pages where the system has them. Each has a storage of its own, and a block is given back when
    the last tensor in it is gone."""

    def __init__(self) -> None:
        self._block: mmap.mmap | None = None
        self._taken = 0
        self._touching: Thread | None = None

    def reserve(self, nbytes: int) -> None:
        """A system that is asked for a page finds one and clears it, which takes longer than what is then written."""
        block = self._fresh(nbytes)

        def touch() -> None:
            ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(block)), 0, len(block))  # without Python's lock

        self._touching = Thread(target=touch, name="dgseg snapshot", daemon=True)
        self._touching.start()

    def empty_like(self, tensor: Tensor, order: torch.memory_format) -> Tensor:
        if tensor.nbytes == 0:
            return torch.empty_like(tensor, memory_format=order)
        if self._touching is not None:
            self._touching.join()
            self._touching = None
        block = self._block
        if block is None or self._taken + tensor.nbytes > len(block):
            block = self._fresh(max(_BLOCK, tensor.nbytes))
        strides = torch.empty_like(tensor, device="meta", memory_format=order).stride()
        flat = torch.frombuffer(block, dtype=tensor.dtype, count=tensor.numel(), offset=self._taken)
        self._taken += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        return flat.as_strided(tensor.shape, strides)

    def _fresh(self, nbytes: int) -> mmap.mmap:
        block = self._block = mmap.mmap(-1, nbytes)
        self._taken = 0
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them
                block.madvise(mmap.MADV_HUGEPAGE)
        return block


def _fits(buffer: Tensor, tensor: Tensor, pinned: bool, weights: bool) -> bool:
    if (buffer.shape, buffer.dtype, buffer.is_pinned() if pinned else False) != (tensor.shape, tensor.dtype, pinned):
        return False
    return weights or buffer.stride() == torch.empty_like(tensor, device="meta").stride()
