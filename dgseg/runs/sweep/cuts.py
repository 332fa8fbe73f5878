"""Which trials are to stop. A module of its own: Ray's process for it starts in a fifth of the time without torch."""

import asyncio


class Cuts:
    """A Ray actor: which trials are to stop. Its methods are coroutines, so that any number of trials may wait."""

    def __init__(self) -> None:
        self._cut: dict[int, asyncio.Event] = {}

    async def cut(self, number: int) -> None:
        self._of(number).set()

    async def is_cut(self, number: int) -> bool:
        return self._of(number).is_set()

    async def decided(self, number: int) -> None:
        """Returns when the trial is to stop."""
        await self._of(number).wait()

    def _of(self, number: int) -> asyncio.Event:
        return self._cut.setdefault(number, asyncio.Event())
