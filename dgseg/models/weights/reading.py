"""Files to dictionaries of tensors. Nothing in a file is ever executed."""

import pickle
import re
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgseg.models.weights.format import State

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_COPIES = ("ema_model.", "imnet_model.")  # what self-training and feature distance keep beside `model.`


class WeightsError(ValueError):
    """A weights file that does not fit, or that is none."""


def read(path: Path) -> tuple[State, dict[str, str]]:
    """The tensors of a file, still under its own keys, and what the file says of itself."""
    if not path.is_file():
        raise WeightsError(f"there is no weights file at {path}")
    try:
        return _read_safetensors(path) if _is_safetensors(path) else (_unwrap(_read_torch(path), path), {})
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: {_cause(error)}. Weights are tensors and nothing else; nothing in it was executed"
        ) from error
    except Exception as error:  # damaged files fail in many ways, none of which is the caller's mistake
        raise WeightsError(f"{path} cannot be read, it is damaged or truncated: {_cause(error)}") from error


def _is_safetensors(path: Path) -> bool:
    """By name, or by content: the header's length in eight bytes, then its opening brace."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_torch(path: Path) -> Any:
    # Files from before torch 1.6 are no archives and cannot be mapped.
    archive = zipfile.is_zipfile(path)
    if archive:
        _refuse_compression(path)
    with _numbers_of_numpy():
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)


def _refuse_compression(path: Path) -> None:
    """torch stores plainly. Mapped into memory, a compressed archive's bytes would pass for numbers; unpacked, a small
    one can fill any memory."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise WeightsError(f"{path} is refused: it is a compressed archive; save it again with torch.save")


def _numbers_of_numpy() -> AbstractContextManager[None]:
    """Training scripts keep scores beside the weights as NumPy numbers; those hold bytes, no code."""
    from numpy._core.multiarray import scalar

    kinds = [type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)]
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return torch.serialization.safe_globals([np.dtype, *kinds, *scalars])


def _unwrap(content: Any, path: Path) -> State:
    while isinstance(content, dict):
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} is refused: it holds {type(content).__name__}, not a dictionary of tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} is refused: its entry {key!r} is {type(value).__name__}, not a tensor")
    return content


def bare(state: State) -> tuple[State, list[str]]:
    """Without the prefixes that wrappers leave, and the keys of copies that were kept beside the model."""
    copies: list[str] = []
    while True:
        if any(key.startswith("model.") for key in state):
            copies += [key for key in state if key.startswith(_COPIES)]
            state = {key: value for key, value in state.items() if not key.startswith(_COPIES)}
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            return state, copies
        state = {key.removeprefix(prefix): value for key, value in state.items()}


def _cause(error: Exception) -> str:
    """What torch found, without its advice to load unsafely."""
    found = re.search(r"(?:WeightsUnpickler error:\s*|Trying to load )(.+)", str(error))
    text = found[1] if found else str(error).strip().partition("\n")[0]
    if text.startswith("Unsupported operand"):
        return "it holds no weights"
    text = text.partition(" was not an allowed")[0].partition("This file can still")[0]
    return text.strip(" .") or type(error).__name__
