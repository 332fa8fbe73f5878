"""Between the workers and the driver: what the first rank has to tell, and whether everybody is to stop."""

import asyncio
from typing import Any

Message = tuple[str, Any]  # a Listener's method and its argument; or "note" and a line of text


class Mailbox:
    """A Ray actor beside the driver. Its methods are coroutines: any number of calls may wait."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._news = asyncio.Event()
        self._stop = asyncio.Event()

    async def put(self, message: Message) -> None:
        self._messages.append(message)
        self._news.set()

    async def take(self, wait: float) -> list[Message]:
        """What has come, after `wait` seconds at most."""
        try:
            await asyncio.wait_for(self._news.wait(), wait)
        except TimeoutError:
            return []
        self._news.clear()
        taken, self._messages = self._messages, []
        return taken

    async def stop(self) -> None:
        self._stop.set()

    async def stopped(self) -> None:
        """Returns when everybody is to stop."""
        await self._stop.wait()
