"""Which failures of a worker are worth another attempt, and which are explained by their message alone."""

import torch

from dgseg.training.checkpoint import CheckpointError
from dgseg.training.loop import NonFiniteLoss

# What a worker may raise because another one, a network or a disk has failed. Anything else it would raise again.
RETRYABLE = (RuntimeError, OSError)
FATAL = (NonFiniteLoss, NotImplementedError, torch.OutOfMemoryError)  # RuntimeErrors all
# Messages for the user, which a traceback would only hide.
USER_ERRORS = (ValueError, NonFiniteLoss, CheckpointError)


class WorkerFailed(RuntimeError):
    """A worker raised what no code foresaw, or its process is gone. error: what it raised."""

    def __init__(self, message: str, error: Exception | None = None) -> None:
        super().__init__(message)
        self.error = error


def is_retryable(error: BaseException) -> bool:
    return isinstance(error, RETRYABLE) and not isinstance(error, FATAL)


def retry_note(attempt: int, allowed: int) -> str:
    return f"starting again from the last checkpoint, {attempt} of {allowed} times"
