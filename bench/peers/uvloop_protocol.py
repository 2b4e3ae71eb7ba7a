"""The bare uvloop protocol: `python uvloop_protocol.py PORT`. A yardstick, not a server to use.

The least that Python on uvloop needs to do the job: one object per connection, a handshake that looks for the key and
nothing else, one subscription per connection, one frame per broadcast and one plain `transport.write` per subscriber.
It checks nothing and limits nothing: whatever a real server costs beyond this is the price of its checks. It is what
fastcable's memory and CPU per connection are held against, and its loop over the subscribers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
from typing import Any

import orjson
import uvloop
from listener import raise_open_files, serve  # type: ignore[import-not-found]

_members: dict[str, set[asyncio.Transport]] = {}


def text_frame(payload: bytes) -> bytes:
    """An unmasked text frame (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + size.to_bytes(1, "big") + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def publish(stream: str, data: Any) -> int:
    """Write one message to every subscriber; returns how many there are."""
    members = _members.get(stream, ())
    frame = text_frame(orjson.dumps({"type": "message", "stream": stream, "data": data}))
    for transport in members:
        transport.write(frame)
    return len(members)


def upgrade(transport: asyncio.Transport, request: bytes) -> None:
    """Answer the handshake and hand the connection to a Subscriber."""
    head, _, rest = request.partition(b"\r\n\r\n")
    start = head.lower().index(b"\r\nsec-websocket-key:") + len(b"\r\nsec-websocket-key:")
    key = head[start:].split(b"\r\n", 1)[0].strip()
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    transport.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + base64.b64encode(digest)
        + b"\r\n\r\n"
    )
    subscriber = Subscriber(transport)
    transport.set_protocol(subscriber)
    if rest:
        subscriber.data_received(rest)


class Subscriber(asyncio.Protocol):
    """A WebSocket connection. Whatever it sends is one whole short masked frame: a subscription, or the end."""

    __slots__ = ("_stream", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._stream = ""

    def data_received(self, data: bytes) -> None:
        if data[0] & 15 == 8:
            self._transport.close()
        elif data[0] & 15 == 1:
            size = data[1] & 127
            start = 6 if size < 126 else 8
            payload = data[start:]
            mask = data[start - 4 : start] * (len(payload) // 4 + 1)
            text = int.from_bytes(payload, "big") ^ int.from_bytes(mask[: len(payload)], "big")
            self._stream = stream = orjson.loads(text.to_bytes(len(payload), "big"))["stream"]
            _members.setdefault(stream, set()).add(self._transport)
            self._transport.write(text_frame(orjson.dumps({"type": "subscribed", "stream": stream})))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream:
            _members[self._stream].discard(self._transport)


class Request(asyncio.Protocol):
    """A connection that still speaks HTTP: a handshake, or posts that may be pipelined and come in pieces."""

    __slots__ = ("_data", "_transport")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        data = self._data + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            if data.startswith(b"GET"):
                upgrade(self._transport, data)
                return
            head = data[:end].lower()
            end += 4
            size = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(data) < end + size:
                break
            self._post(data[end : end + size])
            data = data[end + size :]
        self._data = data

    def _post(self, body: bytes) -> None:
        content = orjson.loads(body)
        subscribers = 0
        for message in content if isinstance(content, list) else [content]:
            subscribers += publish(message["stream"], message["data"])
        answer = b'{"subscribers":%d}' % subscribers
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer)
        )


if __name__ == "__main__":
    raise_open_files()
    uvloop.run(serve(Request, int(sys.argv[1])))
