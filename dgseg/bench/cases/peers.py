"""What the cases share: our operator, torch.compile of an eager peer, optional libraries."""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from dgseg import ops


def operator(name: str) -> Any:
    """dgseg.ops.<name>; typed loosely, since a benchmark may run before an operator is built."""
    return getattr(ops, name)


def built(name: str) -> bool:
    return hasattr(ops, name)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=False)


def optional(module: str) -> ModuleType | None:
    """A peer's library, or None where it is not installed."""
    return importlib.import_module(module) if importlib.util.find_spec(module.split(".")[0]) else None
