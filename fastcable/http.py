"""One TCP connection until it is upgraded or closed.

Theory of operation. A connection is in one of these states:

    HEAD    a request's head is awaited (idle) or has come in part
    BODY    the head was accepted, its body is on the way
    LINGER  the last answer and our FIN are sent; what still arrives is thrown away, since closing with unread bytes
            would make the kernel reset the connection, and the peer lose the answer
    CLOSED  upgraded or lost: nothing of ours is left

In the first two it may be blocked: the peer does not take its answers, and nothing is read or processed until it does.

`_advance` runs the states over the bytes at hand: heads go to a `HeadParser`, at their end the `Endpoints` decide,
and bodies whose length was declared are cut out. Every request is answered before the next is looked at, and after
64 of them the rest waits for the next turn of the loop, with reading paused. An answer closes the connection when the
client asked for that, when the server drains, and whenever bytes of the request were not taken: an error in its form,
a refusal before its body, a chunked body.

There is one deadline at a time, kept in a queue of the site: `handshakes` from accepting for the first head, from its
first byte for a later one, from the head's end for a body, and while the peer does not read; `keepalives` between
requests; `lingering` after the last answer. A byte more never moves it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, cast

from fastcable.chunked import ChunkedBody
from fastcable.handshake import Accept
from fastcable.request import HEAD_END, REPEATED_HEAD, BadRequest, HeadParser, Request, parse_head
from fastcable.response import CONTINUE, Response, error

if TYPE_CHECKING:
    from fastcable.deadlines import Deadlines
    from fastcable.endpoints import Endpoints
    from fastcable.settings import Settings

logger = logging.getLogger(__name__)

REQUESTS_PER_TURN = 64
WRITE_HIGH, WRITE_LOW = 65536, 16384  # bytes; uvloop's own low-water mark is 16 bytes

_FULL = error(503, "no more connections are taken", b"Retry-After: 5\r\n", close=True)
_DRAINING = error(503, "the server is stopping", b"Retry-After: 5\r\n", close=True)
_TIMEOUT = error(408, "the request did not arrive within handshake_timeout", close=True)
_FAILED = error(500, "internal error", close=True)


class Site(Protocol):
    """What all connections of one listener share."""

    @property
    def settings(self) -> Settings: ...
    @property
    def endpoints(self) -> Endpoints: ...
    @property
    def handshakes(self) -> Deadlines: ...
    @property
    def keepalives(self) -> Deadlines: ...
    @property
    def lingering(self) -> Deadlines: ...
    @property
    def full(self) -> bool:
        """No more WebSocket connections are taken."""
        ...

    @property
    def draining(self) -> bool:
        """Every answer is the last one of its connection."""
        ...

    def clock(self) -> float:
        """Monotonic seconds."""
        ...

    def opened(self, protocol: HttpProtocol) -> bool:
        """A connection came in; False: there is no room for it, it is aborted and not reported as closed."""
        ...

    def closed(self, protocol: HttpProtocol) -> None:
        """An opened connection is lost, or is about to be handed to `accept`."""
        ...

    def accept(self, transport: asyncio.Transport, request: Request, response: bytes, rest: bytes) -> None:
        """Make a WebSocket connection of it: set its protocol, write the 101, then feed it `rest`."""
        ...


class State(Enum):
    HEAD = auto()
    BODY = auto()
    LINGER = auto()
    CLOSED = auto()


HEAD, BODY, LINGER, CLOSED = State


class HttpProtocol(asyncio.Protocol):
    """HTTP/1.1 and 1.0 on one connection of `site`."""

    __slots__ = ("_blocked", "_body", "_head", "_loopback", "_queue", "_request", "_site", "_state", "_transport",
                 "_unread")

    _transport: asyncio.Transport

    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = CLOSED
        self._blocked = False
        self._queue: Deadlines | None = None
        self._loopback: bool | None = None
        self._unread = b""
        """Input that waits for its turn."""
        # Per request
        self._head: HeadParser | None = None
        self._request: Request | None = None
        self._body: bytearray | ChunkedBody | None = None

    # What the site calls

    def deadline_passed(self, queue: Deadlines) -> None:
        self._queue = None
        if self._state is CLOSED:
            return
        if self._state is LINGER or self._blocked:
            if self._transport.get_write_buffer_size():
                # The kernel would keep for minutes what the peer did not take.
                discard = struct.pack("ii", 1, 0)
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, discard)
            self._transport.abort()
        elif self._idle:
            self._close()
        else:
            self._finish(_TIMEOUT.encode(b"Connection: close\r\n"))

    def close_if_idle(self) -> None:
        """Close the connection if no request is on the way; one that is will be answered."""
        if self._state is HEAD and not self._blocked and not self._unread and self._idle:
            self._close()

    def abort(self) -> None:
        """Cut the connection off."""
        if self._state is not CLOSED:
            self._transport.abort()

    # What the endpoints call

    def is_loopback(self) -> bool:
        if self._loopback is None:
            self._loopback = _is_loopback(self._transport)
        return self._loopback

    # asyncio callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._site.opened(self):
            self._transport.abort()
            return
        self._state = HEAD
        self._transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        self._wait(self._site.handshakes)

    def data_received(self, data: bytes) -> None:
        if self._state is LINGER:
            return
        if self._unread or self._blocked:  # a loop may hand over what it had read before reading was paused
            self._unread += data
        else:
            self._advance(data)

    def eof_received(self) -> None:
        # The transport closes itself now, as soon as it has sent what it holds: every whole request is answered.
        if self._state is not CLOSED and self._transport.get_write_buffer_size():
            self._state = LINGER
            self._wait(self._site.handshakes)

    def pause_writing(self) -> None:
        self._blocked = True
        if self._state is HEAD or self._state is BODY:
            self._transport.pause_reading()
            self._wait(self._site.handshakes)

    def resume_writing(self) -> None:
        self._blocked = False
        if self._state is HEAD and self._idle:
            self._wait(self._site.keepalives)
        self._continue()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state is not CLOSED:
            self._release()
            self._site.closed(self)

    # Reading

    @property
    def _idle(self) -> bool:
        return self._state is HEAD and (self._head is None or not self._head.started)

    def _advance(self, data: bytes) -> None:
        """Go through `data` until it ends, the peer blocks, or other connections have a right to go on."""
        at = 0
        turns = REQUESTS_PER_TURN
        try:
            while at < len(data) and turns and not self._blocked:
                if self._state is HEAD:
                    at = self._read_head(data, at)
                    turns -= 1
                elif self._state is BODY:
                    at = self._read_body(data, at)
                else:
                    return
        except BadRequest as problem:
            self._refuse(problem)
        if at < len(data) and (self._state is HEAD or self._state is BODY):
            self._unread = data[at:]
            self._transport.pause_reading()
            if not self._blocked:
                asyncio.get_running_loop().call_soon(self._continue)

    def _continue(self) -> None:
        """Go on with what was left over, and read again when nothing is."""
        if not self._blocked and (self._state is HEAD or self._state is BODY):
            data, self._unread = self._unread, b""
            self._advance(data)
            if not self._unread and not self._blocked and (self._state is HEAD or self._state is BODY):
                self._resume_reading()

    def _read_head(self, data: bytes, at: int) -> int:
        """Read a head and answer, or prepare for its body. Returns how far `data` was taken."""
        site = self._site
        settings = site.settings
        head = self._head
        if head is None and data.startswith(b"POST ", at) and (end := data.find(HEAD_END, at, at + REPEATED_HEAD)) >= 0:
            end += len(HEAD_END)
            request = parse_head(data[at:end], settings.max_header_bytes, settings.max_headers)
        else:
            if head is None:
                head = self._head = HeadParser(settings.max_header_bytes, settings.max_headers)
            end = head.feed(data, at)
            if end < 0:
                if head.started and self._queue is not site.handshakes:
                    self._wait(site.handshakes)
                return len(data)
            assert head.request is not None
            request = head.request
            self._head = None
        try:
            answer = site.endpoints.begin(request, self)
        except Exception:
            logger.exception("a request failed")
            answer = _FAILED
        if answer is None:
            length = request.length
            if length is None or length > len(data) - end:
                self._begin_body(request, waiting=end == len(data))
                return end
            self._publish(request, data[end : end + length], close=False)
            return end + length
        if isinstance(answer, Accept):
            self._upgrade(request, answer, data[end:])
            return len(data)
        self._answer(request, answer, close=request.length != 0)
        return end

    def _begin_body(self, request: Request, *, waiting: bool) -> None:
        """Prepare for a body that has not come whole; `waiting`: nothing of it has come."""
        settings = self._site.settings
        self._state = BODY
        self._request = request
        self._body = (
            ChunkedBody(settings.max_broadcast_size, settings.max_header_bytes)
            if request.length is None
            else bytearray()
        )
        self._wait(self._site.handshakes)
        if waiting and request.expects_continue:
            self._write(CONTINUE)

    def _read_body(self, data: bytes, at: int) -> int:
        request, body = self._request, self._body
        assert request is not None
        assert body is not None
        if isinstance(body, bytearray):
            assert request.length is not None
            end = at + request.length - len(body)
            body += data[at:end]
            if len(body) == request.length:
                self._publish(request, bytes(body), close=False)
            return min(end, len(data))
        if body.feed(data[at:]):
            self._publish(request, bytes(body.content), close=True)
        return len(data)

    # Answering

    def _publish(self, request: Request, body: bytes, *, close: bool) -> None:
        try:
            answer = self._site.endpoints.publish(body)
        except Exception:
            logger.exception("a broadcast failed")
            answer = _FAILED
        self._answer(request, answer, close=close)

    def _answer(self, request: Request, answer: Response, *, close: bool) -> None:
        body = request.method != b"HEAD"
        if close or answer.close or not request.keep_alive or self._site.draining:
            self._finish(answer.encode(b"Connection: close\r\n", body=body))
        else:
            self._state = HEAD
            self._request = self._body = None
            self._wait(self._site.keepalives)
            self._write(answer.encode(b"Connection: keep-alive\r\n" if request.version == "1.0" else b"", body=body))

    def _refuse(self, problem: BadRequest) -> None:
        logger.debug("a request was refused with %d: %s", problem.status, problem)
        answer = error(problem.status, str(problem))
        body = self._head is None or self._head.method != b"HEAD"
        self._finish(answer.encode(b"Connection: close\r\n", body=body))

    def _upgrade(self, request: Request, accept: Accept, rest: bytes) -> None:
        site, transport = self._site, self._transport
        if site.draining or site.full:
            self._answer(request, _DRAINING if site.draining else _FULL, close=True)
            return
        self._release()
        site.closed(self)
        if not transport.is_reading():
            transport.resume_reading()
        site.accept(transport, request, accept.response, rest)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    # Ending

    def _finish(self, answer: bytes) -> None:
        """Send the last answer and our FIN, then throw away what arrives until the peer's FIN or for a bounded time."""
        self._state = LINGER
        self._drop_request()
        self._wait(self._site.lingering)
        self._write(answer)
        if not self._transport.is_closing():
            self._transport.write_eof()
        self._resume_reading()

    def _close(self) -> None:
        # A close waits until everything is sent, which a peer that reads nothing would make for ever.
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def _release(self) -> None:
        """Leave the queues and break all cycles."""
        self._state = CLOSED
        self._drop_request()
        if self._queue is not None:
            self._queue.discard(self)
            self._queue = None
        del self._transport

    def _drop_request(self) -> None:
        self._unread = b""
        if self._head is not None:
            self._head.close()
            self._head = None
        if isinstance(self._body, ChunkedBody):
            self._body.close()
        self._request = self._body = None

    def _wait(self, queue: Deadlines) -> None:
        """Have the whole allowance of `queue` from now on, and no other deadline."""
        if self._queue is not None and self._queue is not queue:
            self._queue.discard(self)
        self._queue = queue
        queue.add(self, self._site.clock())

    def _resume_reading(self) -> None:
        if not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()


def _is_loopback(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        return True
    address = transport.get_extra_info("peername")
    if not address:
        return False
    host: str = address[0].removeprefix("::ffff:")
    return host == "::1" or host.startswith("127.")
