"""What goes wrong in a command is a sentence on stderr, without a traceback; Ctrl-C is a line and the status 130."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def user_errors(command: str, hint: str = "") -> Iterator[None]:
    """hint: how a command that was stopped is resumed."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"{command}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        if data := sys.modules.get("dgseg.data.dataset"):
            warnings.simplefilter("once", data.DataWarning)
        warnings.showwarning = show
        try:
            yield
        except KeyboardInterrupt:
            print(f"{command}: stopped{hint and f'; {hint}'}", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            explained = _explained(error)
            if explained is None:
                raise
            raise SystemExit(f"{command}: {explained}") from error


def _explained(error: Exception) -> Exception | None:
    """The error whose message says it all."""
    if isinstance(error, ValueError | OSError):
        return error
    from dgseg.training.failures import USER_ERRORS, WorkerFailed

    if isinstance(error, WorkerFailed):
        return (error.error and _explained(error.error)) or error
    return error if isinstance(error, USER_ERRORS) else None
