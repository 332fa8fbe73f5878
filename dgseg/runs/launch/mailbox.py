"""Between the workers and the driver: what the first rank has to tell, and whether everybody is to stop."""

import asyncio
import contextlib
import pickle
from typing import Any


class Mailbox:
    """A Ray actor beside the driver. Its methods are coroutines: any number of calls may wait.

    Messages are sealed: opened here, they would make this process import torch first, and everybody wait for it.
    """

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._news = asyncio.Event()
        self._stop = asyncio.Event()

    async def put(self, message: bytes) -> None:
        self._messages.append(message)
        self._news.set()

    async def take(self, wait: float) -> list[bytes]:
        """What has come, after `wait` seconds at most."""
        if not self._messages:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait)
        self._news.clear()
        taken, self._messages = self._messages, []
        return taken

    async def stop(self) -> None:
        self._stop.set()

    async def stopped(self) -> None:
        """Returns when everybody is to stop."""
        await self._stop.wait()


def send(mailbox: Any, kind: str, content: Any) -> Any:
    """kind: a Listener's method, with its argument; arrived, note, traceback, lost or over, as driver.py takes them."""
    return mailbox.put.remote(pickle.dumps((kind, content)))


def decode(message: bytes) -> tuple[str, Any]:
    kind, content = pickle.loads(message)
    return kind, content
