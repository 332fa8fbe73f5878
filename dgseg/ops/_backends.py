"""Which implementation serves each operator on each device, and why.

An operator `dgseg::name` has, per device type, at most one compiled implementation; where it has none (or where
DGSEG_BACKEND=reference asks for it) its reference in plain torch serves, and that is announced once.
"""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

LIBRARY = torch.library.Library("dgseg", "FRAGMENT")
_FOLDER = Path(__file__).resolve().parent.parent / "_lib"

# operator -> device type -> backend; operator -> device type -> why there is none
_served: dict[str, dict[str, str]] = {}
_missing: dict[str, dict[str, str]] = {}


@functools.cache
def native_library(kind: str) -> str | None:
    """Loads libdgseg_<kind>.so once; the reason why it could not be, or None."""
    path = _FOLDER / f"libdgseg_{kind}.so"
    if not path.exists():
        return f"{path.name} was not built (run `make build`, or install a wheel that has it)"
    try:
        torch.ops.load_library(path)
    except OSError as error:  # torch says that it could not; its cause says why
        return f"{path.name} does not load: {error.__cause__ or error}"
    return None


def native_operators(kind: str, *operators: str) -> str | None:
    """Why libdgseg_<kind>.so does not serve these (defined) operators; None if it does. A library built from an older
    checkout loads, but lacks the operators that came later."""
    reason = native_library(kind)
    if reason is not None:
        return reason
    lacking = [
        name for name in operators if not torch._C._dispatch_has_kernel_for_dispatch_key(f"dgseg::{name}", kind.upper())
    ]
    return f"libdgseg_{kind}.so has no {', '.join(lacking)} (build it again)" if lacking else None


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def reference_forced() -> bool:
    return os.environ.get("DGSEG_BACKEND", "").lower() == "reference"


def debug() -> bool:
    """DGSEG_DEBUG=1 turns on the value checks that make a GPU wait."""
    return os.environ.get("DGSEG_DEBUG", "0") not in ("", "0")


def serve(operator: str, device: str, backend: str, missing: str | None) -> None:
    """Records that `backend` serves `operator` on `device` ("cpu", "cuda"), or why nothing does."""
    if missing is None:
        _served.setdefault(operator, {})[device] = backend
    else:
        _missing.setdefault(operator, {})[device] = missing


def why_reference(operator: str, device: str) -> str:
    """Why the reference serves an operator on a device type."""
    if reference_forced():
        return "DGSEG_BACKEND=reference asks for it"
    return _missing.get(operator, {}).get(device, f"there is no implementation for {device}")


@functools.cache
def _announce(operator: str, device: str) -> None:
    reason = why_reference(operator, device)
    warnings.warn(f"dgseg.ops.{operator} uses its plain torch reference on {device}: {reason}", stacklevel=5)


def compiled(operator: str, device: torch.device) -> bool:
    """Whether a compiled implementation serves this call; announces the fallback once where none does."""
    if reference_forced():
        return False
    if device.type in _served.get(operator, {}) or device.type == "meta":  # meta: shapes alone, by the fakes
        return True
    if not torch.compiler.is_compiling():
        _announce(operator, device.type)
    return False


def backends(device: str | torch.device) -> dict[str, str]:
    """{operator: "native" | "cuda" | "triton" | "reference"} for a device."""
    kind = torch.device(device).type
    names = sorted(_served.keys() | _missing.keys())
    if reference_forced():
        return dict.fromkeys(names, "reference")
    return {name: _served.get(name, {}).get(kind, "reference") for name in names}


class Operator(Generic[P, R]):
    """A public operator: a function that also carries its `reference` (same signature, plain torch)."""

    def __init__(self, function: Callable[P, R], reference: Callable[..., R]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self.reference = reference

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)


def with_reference(reference: Callable[..., Any]) -> Callable[[Callable[P, R]], Operator[P, R]]:
    return lambda function: Operator(function, reference)
