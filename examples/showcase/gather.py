"""Many changes, one message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Gatherer(Generic[T]):
    """Calls `send` with the set of all that was added: at once after a pause, and never twice within `seconds`.

    One call follows the other, so what they publish is in order; what is added during a call is in the next.
    """

    def __init__(self, seconds: float, send: Callable[[set[T]], Awaitable[None]]) -> None:
        self._seconds = seconds
        self._send = send
        self._items: set[T] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, *items: T) -> None:
        self._items.update(items)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._items:
                items, self._items = self._items, set()
                await self._send(items)
                await asyncio.sleep(self._seconds)
        finally:
            self._task = None
