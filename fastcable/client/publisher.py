"""`Publisher`: for programs without an event loop."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from fastcable.client.connection import Address
from fastcable.client.posting import Posting

T = TypeVar("T")


class Publisher(Posting):
    """Publishes messages to the subscribers of a fastcable server.

        publisher = Publisher()
        publisher.broadcast("scores", {"heat": 4})      # → the number of subscribers

    `url` is the server's broadcast endpoint: `http://`, `https://`, or `http+unix://%2Frun%2Ffastcable%2Fsocket/_broadcast`
    for a Unix socket. When left out it is $FASTCABLE_BROADCAST_URL, else http://127.0.0.1:3000/_broadcast; `key` is the
    server's broadcast_key, when left out $FASTCABLE_BROADCAST_KEY. What is wrong with them raises ValueError.

    A call takes at most `timeout` seconds in all (only the system's name resolution can take longer), of which at most
    `connect_timeout` to connect to each address of the server.

    With `on_error="raise"` a message that is not published raises `PublishError`; nothing is ever sent twice. With
    "log" it is lost with a warning of the logger "fastcable.publisher", of which there is one in 10 s at most, and the
    call returns 0.

    One publisher serves any number of threads and, made before a fork, both processes. Connections are kept for the
    next message; `close` closes them, and publishing afterwards opens new ones. Proxies that the environment names are
    not used, redirects not followed.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._kept.close()

    def broadcast(self, stream: str, data: object, *, retain: bool = False, exclude: str | None = None) -> int:
        """Publish one message, of anything orjson can write, and return how many connections were subscribed.

        With `retain` it is also kept for those who subscribe later. `exclude` is the socket id of a connection that
        does not get it. Raises `PublishError`.
        """
        return run(self._broadcast(_BLOCKING, stream, data, retain, exclude))

    def broadcast_many(
        self, messages: Iterable[tuple[str, object]], *, retain: bool = False, exclude: str | None = None
    ) -> int:
        """Publish (stream, data) pairs in order, all of them or none, and return the sum of their subscribers.

        `retain` and `exclude` hold for each. The server takes `max_batch` (1000) at most. Raises `PublishError`.
        """
        return run(self._broadcast_many(_BLOCKING, messages, retain, exclude))


class Blocking:
    """Waits that hold up the thread, and never suspend the coroutine they are awaited in."""

    async def resolve(self, host: str, port: int, deadline: float) -> list[Address]:
        # As bytes, for which no IDNA tables are loaded.
        found = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]

    async def ready(self, sock: socket.socket, *, write: bool, deadline: float) -> None:
        ready = select.poll()
        ready.register(sock, select.POLLOUT if write else select.POLLIN)
        if not ready.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError


_BLOCKING = Blocking()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it was suspended")
