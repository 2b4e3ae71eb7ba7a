"""POST /_broadcast for servers whose library does not take posts: the smallest HTTP listener, on httptools.

It is no heavier than what the other Python servers have for it, so that posting costs none of them more than it must.
Requests may be pipelined and come in pieces; they are answered in order. An array of messages is a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
import orjson


class Posts(asyncio.Protocol):
    """One connection. `publish(stream, data)` gives the number of subscribers; `upgrade(transport, request)`, where
    given, takes the connection over when it asks for another protocol."""

    __slots__ = ("_body", "_parser", "_publish", "_transport", "_upgrade")

    def __init__(
        self,
        publish: Callable[[str, Any], int],
        upgrade: Callable[[asyncio.Transport, bytes], None] | None = None,
    ) -> None:
        self._publish = publish
        self._upgrade = upgrade
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        del self._parser  # it holds our methods: a cycle

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            assert self._upgrade is not None
            self._upgrade(self._transport, data)
            del self._parser

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if not self._body:  # a handshake
            return
        content = orjson.loads(self._body)
        self._body = b""
        if isinstance(content, list):
            subscribers = sum([self._publish(message["stream"], message["data"]) for message in content])
        else:
            subscribers = self._publish(content["stream"], content["data"])
        answer = b'{"subscribers":%d}' % subscribers
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer)
        )
