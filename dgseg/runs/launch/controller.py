"""What runs in Ray Train's controller, beside the driver: it decides whether a failed run is worth another attempt."""

from collections.abc import Mapping
from typing import Any

from ray.train import ControllerError, UserCallback, WorkerGroupError

from dgseg.runs.launch.mailbox import send
from dgseg.training.failures import USER_ERRORS, WorkerFailed, is_retryable, retry_note

LOGS = "/tmp/ray/session_latest/logs"


class Failures(UserCallback):  # type: ignore[misc]
    """Tells the driver who failed, and gives up where another attempt would fail alike."""

    def __init__(self, mailbox: Any, allowed: int) -> None:
        self._mailbox, self._allowed, self._count = mailbox, allowed, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if not _gone(error) and not is_retryable(error):
                raise error
        self._count += 1
        if self._count <= self._allowed:
            dead = [rank for rank, error in worker_exceptions.items() if _gone(error)]
            who = ", ".join(f"worker {rank}" for rank in sorted(dead or worker_exceptions))
            why = "" if dead else f" ({next(iter(worker_exceptions.values()))})"
            send(self._mailbox, "lost", f"lost {who}{why}: {retry_note(self._count, self._allowed)}")


def _gone(error: Exception) -> bool:
    """Nothing that a worker raised: Ray says that its process, or its machine, is no more."""
    return type(error).__module__.partition(".")[0] == "ray"


def reason(error: BaseException, tracebacks: Mapping[int, str]) -> BaseException:
    """One message for what the user can mend, the workers' tracebacks for the rest."""
    inner: Any = error
    if isinstance(error, ControllerError):
        inner = error.controller_failure
    elif isinstance(error, WorkerGroupError):
        inner = next(iter(error.worker_failures.values()), error)
    if isinstance(inner, USER_ERRORS):
        return inner
    told = "\n".join(f"worker {rank}:\n{text}" for rank, text in sorted(tracebacks.items()))
    return WorkerFailed(f"{inner}\n{told}Ray keeps the logs of all processes, usually in {LOGS}")
