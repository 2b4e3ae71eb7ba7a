"""A poller without a server around it, and what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastcable.sources import Reader
from fastcable.sources.poller import Poller
from tests.harness import PATIENCE


class Recorder:
    """In the place of the hub and the broker around it: keeps what it is told, in order."""

    congested = False

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._changed = asyncio.Event()

    def deliver(self, stream: str, data: bytes) -> None:
        self._tell("message", stream, data)

    def lost(self, stream: str) -> None:
        self._tell("lost", stream)

    def confirmed(self, poller: Poller, stream: str, missed: bool) -> None:
        self._tell("missed" if missed else "confirmed", stream)

    def interrupted(self, poller: Poller) -> None:
        self._tell("interrupted")

    def _tell(self, *what: object) -> None:
        self.told.append(what)
        self._changed.set()

    def messages(self, stream: str) -> list[Any]:
        return [json.loads(each[2]) for each in self.told if each[:2] == ("message", stream)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def expect(self, *what: tuple[Any, ...]) -> None:
        """These must come next, and nothing else."""
        await self.until(lambda: len(self.told) >= len(what))
        assert tuple(self.told) == what
        self.told.clear()


@contextlib.asynccontextmanager
async def polling(
    reader: Reader, *streams: str, interval: float = 0.02, prefix: str | None = None, max_size: int = 0
) -> AsyncIterator[tuple[Recorder, Poller]]:
    """A poller at work, which has confirmed these streams."""
    recorder = Recorder()
    poller = Poller(
        "test", reader, recorder, recorder, interval=interval, prefix=prefix, max_size=max_size)  # type: ignore[arg-type]
    poller.start()
    try:
        for stream in streams:
            poller.subscribe(stream)
        await recorder.expect(*(("confirmed", stream) for stream in streams))
        yield recorder, poller
    finally:
        await poller.stop()


async def problem(poller: Poller, words: str | None) -> None:
    """Wait until it has this problem; None: none."""
    async with asyncio.timeout(PATIENCE):
        while not (words in (poller.problem or "") if words else poller.problem is None):  # noqa: ASYNC110 (not told)
            await asyncio.sleep(0.005)
