"""Brokers as several processes have them, all on one event loop, with hubs that note what they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import uvloop

from fastcable.brokers.redis import RedisBroker
from fastcable.retained import Retained
from fastcable.settings import Settings
from tests.harness import PATIENCE
from tests.redis_server import RedisServer

Event = tuple[Any, ...]


class RecordingHub:
    """What a broker knows of a hub, and whether it is told the right things in the right order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.told: asyncio.Queue[Event] = asyncio.Queue()
        self.retained = Retained(1 << 20, 3600, loop.time)
        self.sessions = self
        self.congested = False
        self.max_backlog = 1 << 20

    def confirmed(self, stream: str) -> None:
        self.told.put_nowait(("confirmed", stream, self.retained.get(stream)))

    def interrupted(self) -> None:
        self.told.put_nowait(("interrupted",))

    def deliver(
        self, stream: str, data: bytes, retain: bool = False, exclude: str | None = None, embedded: bool = False
    ) -> None:
        if retain:
            self.retained.keep(stream, data)
        options = tuple(option for option in (retain, exclude, embedded) if option)
        self.told.put_nowait((stream, data, *options))

    def identifiers(self) -> list[str]:
        return ['{"user_id":15}', '{"user_id":15,"tenant":"acme","device":null}', '"15"']

    def disconnect(self, identifier: str, reconnect: bool) -> None:
        self.told.put_nowait(("disconnect", identifier, reconnect))


class Node:
    """A broker of a process, and its hub."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop, link: Any = None, **options: Any) -> None:
        self.hub = RecordingHub(loop)
        self.broker = RedisBroker(self.hub, Settings(broker=url, **options), loop, link)  # type: ignore[arg-type]

    async def expect(self, *events: Event) -> None:
        """The next events must be these."""
        for event in events:
            async with asyncio.timeout(PATIENCE):
                assert await self.hub.told.get() == event

    async def subscribe(self, *streams: str, retained: bytes | None = None) -> None:
        for stream in streams:
            self.broker.subscribe(stream)
        await self.expect(*(("confirmed", stream, retained) for stream in streams))

    async def publish(self, stream: str, data: bytes, *options: Any) -> int | None:
        async with asyncio.timeout(PATIENCE):
            return await self.broker.publish(stream, data, *options, *(False, None, False)[len(options):])

    async def until_ready(self) -> None:
        await until(lambda: self.broker.problem is None)

    async def quiet(self) -> None:
        """Everything that was published before has arrived, and nothing was told of it that is not expected."""
        await self.subscribe("mark")
        await self.publish("mark", b"1")
        await self.expect(("mark", b"1"))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (nobody tells of these)
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def node(redis: RedisServer | str, **options: Any) -> AsyncIterator[Node]:
    url = redis if isinstance(redis, str) else redis.url
    one = Node(url, asyncio.get_running_loop(), **options)
    await one.broker.start()
    try:
        yield one
    finally:
        await one.broker.stop()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    uvloop.run(scenario)
