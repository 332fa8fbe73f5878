"""What goes wrong in a command is a sentence on stderr, without a traceback."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dgseg.data.dataset import DataWarning


@contextmanager
def plain_messages(command: str) -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"{command}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("once", DataWarning)
        warnings.showwarning = show
        try:
            yield
        except (ValueError, OSError) as error:
            raise SystemExit(f"{command}: {error}") from error
