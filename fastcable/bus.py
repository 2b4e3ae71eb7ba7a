"""The frames that the workers of one host and their switch exchange, on Unix-domain stream sockets.

A frame is a header of nine bytes, big endian (`HEADER`: the length of what follows it, a type, two numbers), and a
body:

| type | sent by | the numbers | body |
|---|---|---|---|
| HELLO | both, as their first | | JSON: `{"v":1}` |
| MESSAGE | a worker; the switch passes it on | bytes of the stream's name; of the text before the data | name, text |
| DISCONNECT | a worker; the switch passes it on | | JSON: `{"identifier":"…","reconnect":true}` |
| ACCEPTED | the switch | | for each MESSAGE and DISCONNECT of this worker in turn: subscribers elsewhere, 32 bits |
| COUNT | a worker | | name: how many subscribers has this stream elsewhere? |
| COUNTED | the switch | | for each COUNT in turn: 32 bits |
| COUNTS | a worker | | any number of: bytes of the name, 16 bits; subscribers here, 32 bits; name |
| RETAINED | the switch | bytes of the name | age in seconds, a double; name, data (`null`: none any more) |
| REPLAYED | the switch | | that were all retained messages |
| LOST | the switch | | messages for this worker were dropped at this point |
| CONTROL | both | | a JSON object between the worker and whoever runs the switch |

The text of a message is that of `fastcable.brokers.message`. Processes of two versions talk to each other while one
replaces the other: frames of unknown types and unknown members of JSON are ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

HEADER = struct.Struct(">IBHH")
MAX_FRAME = 64 << 20
"""Bytes that may follow a header."""

HELLO, MESSAGE, DISCONNECT, ACCEPTED, COUNT, COUNTED, COUNTS, RETAINED, REPLAYED, LOST, CONTROL = range(1, 12)

GREETING = b'{"v":1}'
COUNT_OF = struct.Struct(">HI")  # one entry of COUNTS, without the name
AGE = struct.Struct(">d")
MAX_NAME = 0xFFFF
BATCH = 64 << 10  # bytes from which on one frame or piece of many entries is followed by the next


def frame(kind: int, body: bytes = b"") -> bytes:
    return HEADER.pack(len(body), kind, 0, 0) + body


def message_frame(name: bytes, head: bytes, data: bytes) -> bytes:
    """MESSAGE; `head` is what the text of the message has before its data."""
    size = len(name) + len(head) + len(data) + 1
    return b"%b%b%b%b}" % (HEADER.pack(size, MESSAGE, len(name), len(head)), name, head, data)


def retained_frame(name: bytes, data: bytes, age: float) -> bytes:
    size = AGE.size + len(name) + len(data)
    return b"%b%b%b%b" % (HEADER.pack(size, RETAINED, len(name), 0), AGE.pack(age), name, data)


def retained_in(data: bytes, at: int, stop: int, size: int) -> tuple[str, bytes, float]:
    """The stream, value and age in the body of RETAINED at data[at:stop]; ValueError where it has no room for them."""
    if at + AGE.size + size > stop:
        raise ValueError("RETAINED ends inside its name")
    (age,) = AGE.unpack_from(data, at)
    at += AGE.size
    return data[at : at + size].decode(), data[at + size : stop], age


def counts_frames(counts: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """COUNTS for these streams and their subscribers, in frames of about `BATCH` bytes."""
    body = bytearray()
    for name, count in counts:
        if len(name) <= MAX_NAME:  # nobody could publish to others
            body += COUNT_OF.pack(len(name), count) + name
        if len(body) >= BATCH:
            yield frame(COUNTS, bytes(body))
            body = bytearray()
    if body:
        yield frame(COUNTS, bytes(body))


def counts_in(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, int]]:
    """The entries in the body of COUNTS at data[at:stop]; ValueError where they do not end there."""
    while at < stop:
        start = at + COUNT_OF.size
        if start > stop:
            raise ValueError("COUNTS end inside an entry")
        size, count = COUNT_OF.unpack_from(data, at)
        at = start + size
        if at > stop:
            raise ValueError("COUNTS end inside a name")
        yield data[start:at], count


class Rest:
    """The beginning of a frame whose end has not been read yet."""

    __slots__ = ("_missing", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._missing = 0

    def followed_by(self, data: bytes) -> bytes:
        """What there is now to be parsed; nothing if it is known not to be enough."""
        if not self.data:
            return data
        self.data += data
        self._missing -= len(data)
        if self._missing > 0:
            return b""
        data, self.data = bytes(self.data), bytearray()
        return data

    def keep(self, data: bytes, at: int) -> None:
        """data[at:] is no whole frame. ValueError: nor will it be one."""
        have = len(data) - at
        need = HEADER.size
        if have >= need:
            length = HEADER.unpack_from(data, at)[0]
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes is too large")
            need += length
        self.data = bytearray(memoryview(data)[at:])
        self._missing = need - have
