"""What one published family of checkpoints looks like."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

State = dict[str, Tensor]


def as_it_is(state: State, model: nn.Module) -> State:
    """For checkpoints whose names our modules carry."""
    return state


class Format(NamedTuple):
    """Both functions see bare keys: no "state_dict" around them, no `module.` or `model.` before, no teacher's."""

    name: str  # as people call it: errors say "looks like <name>"
    recognises: Callable[[set[str]], bool]  # is this such a checkpoint? Cheap, and false for every other format
    # To the model's own keys; what it does not know it hands on as it is.
    translate: Callable[[State, nn.Module], State] = as_it_is
    ignores: tuple[str, ...] = ()  # beginnings of keys that segmentation has no use for, such as ImageNet's classifier
