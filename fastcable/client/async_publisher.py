"""`AsyncPublisher`: for programs on asyncio's or uvloop's event loop."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from fastcable.client.connection import Address
from fastcable.client.posting import Posting


class AsyncPublisher(Posting):
    """`Publisher` with `await`, and the same in everything else:

        async with AsyncPublisher() as publisher:
            await publisher.broadcast("scores", {"heat": 4})

    It belongs to no event loop: it may be made before there is one, and used in one after another. Messages published
    by one task one after the other arrive in this order; of several tasks at once in any. A call that is cancelled may
    have published or not.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the kept connections; publishing afterwards opens new ones."""
        self._kept.close()

    async def broadcast(self, stream: str, data: object, *, retain: bool = False, exclude: str | None = None) -> int:
        """Publish one message, as `Publisher.broadcast` does. Raises `PublishError`."""
        return await self._broadcast(_SUSPENDING, stream, data, retain, exclude)

    async def broadcast_many(
        self, messages: Iterable[tuple[str, object]], *, retain: bool = False, exclude: str | None = None
    ) -> int:
        """Publish (stream, data) pairs in order, as `Publisher.broadcast_many` does. Raises `PublishError`."""
        return await self._broadcast_many(_SUSPENDING, messages, retain, exclude)


class Suspending:
    """Waits that suspend the task. The sockets are no transports of a loop: they are watched only during a wait."""

    async def resolve(self, host: str, port: int, deadline: float) -> list[Address]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(deadline - time.monotonic()):
            found = await loop.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]

    async def ready(self, sock: socket.socket, *, write: bool, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        descriptor = sock.fileno()
        watch, unwatch = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        watch(descriptor, _set, ready)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await ready
        finally:
            unwatch(descriptor)


_SUSPENDING = Suspending()


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
