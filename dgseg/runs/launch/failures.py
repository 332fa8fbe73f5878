"""Which failures are worth another attempt, and how they are told."""

import torch

from dgseg.training.checkpoint import CheckpointError
from dgseg.training.loop import NonFiniteLoss

# What a worker may raise because another one, a network or a disk has failed. Anything else it would raise again.
PASSING = (RuntimeError, OSError)
LASTING = (NonFiniteLoss, NotImplementedError, torch.OutOfMemoryError)  # RuntimeErrors all
# Messages for whoever started the run, which a traceback would only hide.
PLAIN = (ValueError, NonFiniteLoss, CheckpointError)


class WorkerFailed(RuntimeError):
    """A worker raised what nobody foresaw, or is gone; the message has its traceback."""


def passing(error: BaseException) -> bool:
    return isinstance(error, PASSING) and not isinstance(error, LASTING)


def again(attempt: int, allowed: int) -> str:
    return f"starting again from the last checkpoint, {attempt} of {allowed} times"
