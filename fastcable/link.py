"""A worker's end of its link with the switch.

Theory of operation
-------------------
Frames (`fastcable.bus`) of one turn of the loop are written together; while the socket is full they wait here, and
what is written then is as large as what has come together. What is read is handed to the hub at once; while the hub is
congested nothing is read, so that messages wait in the switch, which tells us when it had to drop some.

Our own messages are sent to the switch and come back as ACCEPTED, at their place in the order of all: there they are
delivered here. The switch answers in the order in which it was asked, so what waits for its answer stands in a queue. A
poster whose answer takes longer than `publish_timeout` is told so; the message stays where it is, for it may well have
reached the others, and is then delivered here, too.

How many subscribers streams have here is told to the switch when it changes, the first time at once and from then on in
batches, at most every `REPORT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from fastcable import bus
from fastcable.brokers import HandoverError
from fastcable.brokers.message import PLAIN, decode_at, head
from fastcable.bus import HEADER

if TYPE_CHECKING:
    from fastcable._hub import Hub

logger = logging.getLogger("fastcable")

REPORT_SECONDS = 0.1
CONGESTED_SECONDS = 0.005  # between two looks at whether the hub still is
FINISH_SECONDS = 2.0  # for the last writes, where publish_timeout is none
WAITING_OVERHEAD = 512
"""Bytes that something waiting for the switch's answer is counted with besides its frame."""


class Waiting(NamedTuple):
    """What the switch has been sent and has not answered yet."""

    answer: asyncio.Future[Any]
    deadline: float
    size: int
    deliver: Callable[..., object] | None  # what is to be done here when it is accepted
    arguments: tuple[object, ...]


class Questions:
    """What waits for one kind of answer, in the order in which it was sent."""

    __slots__ = ("_late", "size", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.size = 0  # bytes
        self._late = 0  # of the first ones the posters were told

    def add(self, waiting: Waiting) -> None:
        self.waiting.append(waiting)
        self.size += waiting.size

    def answered(self) -> Waiting:
        waiting = self.waiting.popleft()
        self.size -= waiting.size
        if self._late:
            self._late -= 1
        return waiting

    def expire(self, now: float, problem: str) -> float | None:
        """Give up those whose time is over; when the next one's is."""
        for waiting in islice(self.waiting, self._late, None):
            if waiting.deadline > now:
                return waiting.deadline
            self._late += 1
            fail(waiting.answer, problem)
        return None


def fail(answer: asyncio.Future[Any], problem: str) -> None:
    if not answer.done():
        answer.set_exception(HandoverError(problem))
        answer.exception()  # nobody may be left to look at it


class Link(asyncio.Protocol):
    """`hub` gets the others' messages, and our own; `publish_timeout` is in seconds (0: none). `on_control` is called
    with what whoever runs the switch says, `on_end` when the switch is gone, but not when `finish` ended the link."""

    def __init__(
        self,
        hub: Hub,
        loop: asyncio.AbstractEventLoop,
        publish_timeout: float,
        *,
        on_control: Callable[[dict[str, object]], None] = lambda message: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        # Settings
        self._hub = hub
        self._loop = loop
        self._publish_timeout = publish_timeout
        self._late = f"the server's other workers did not take it within {publish_timeout:g} s"
        self._on_control = on_control
        self._on_end = on_end
        # State
        self.problem: str | None = "not connected with the server's other workers"
        """Why nothing can be handed over; None: it can."""
        self._transport: asyncio.Transport | None = None
        self._rest = bus.Rest()
        self._messages = Questions()
        self._counts = Questions()
        self._changed: set[str] = set()  # streams whose counts the switch does not know yet
        self._reported = 0.0
        self._out: list[bytes] = []
        self._flushing = False
        self._full = False  # the socket is
        self._replayed: asyncio.Future[None] = loop.create_future()
        self._finished: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] = loop.create_future()
        self._report_timer: asyncio.TimerHandle | None = None
        self._late_timer: asyncio.TimerHandle | None = None
        self._congested_timer: asyncio.TimerHandle | None = None

    # Life

    async def start(self, sock: socket.socket) -> None:
        """Take over this end of the socket. Afterwards all retained messages are here, and every message is heard;
        ConnectionError: the switch has gone."""
        await self._loop.create_unix_connection(lambda: self, sock=sock)
        await self._replayed

    async def finish(self) -> None:
        """Wait until what was published here is accepted, at most for `publish_timeout`, and end the link."""
        timeout = self._publish_timeout or FINISH_SECONDS
        if self._messages.waiting:
            self._finished = self._loop.create_future()
            await asyncio.wait((self._finished, self._lost), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        self._on_end = lambda: None
        self._flush()
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait((self._lost,), timeout=timeout)
        if self._transport is not None:
            self._transport.abort()
            await self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=256 << 10, low=64 << 10)
        self.problem = None
        self._write(bus.frame(bus.HELLO, bus.GREETING))
        self._changed.update(self._hub.streams)
        self._hub.on_change = self._count_changed
        self._report()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._hub.on_change = None
        self.problem = "the connection with the server's other workers has ended"
        for timer in (self._report_timer, self._late_timer, self._congested_timer):
            if timer is not None:
                timer.cancel()
        for questions in (self._messages, self._counts):
            while questions.waiting:
                fail(questions.answered().answer, self.problem)
        self._out.clear()
        if not self._replayed.done():
            self._replayed.set_exception(ConnectionError(self.problem))
            self._replayed.exception()
        self._lost.set_result(None)
        on_end, self._on_end, self._on_control = self._on_end, lambda: None, lambda message: None
        on_end()

    # What is sent

    def publish(
        self, stream: str, data: bytes, retain: bool = False, exclude: str | None = None, embedded: bool = False
    ) -> asyncio.Future[int]:
        """Send a message to all workers, this one among them; how many subscribers the stream has at the others.
        HandoverError: it was not accepted, or not in time."""
        frame = bus.message_frame(stream.encode(), head(retain, exclude, embedded), data)
        return self._ask(self._messages, frame, self._hub.deliver, stream, data, retain, exclude, embedded)

    def disconnect(self, identifier: str, reconnect: bool) -> asyncio.Future[int]:
        """End the connections of this identifier at all workers, this one among them. HandoverError as in `publish`."""
        frame = bus.frame(bus.DISCONNECT, orjson.dumps({"identifier": identifier, "reconnect": reconnect}))
        return self._ask(self._messages, frame, self._hub.sessions.disconnect, identifier, reconnect)

    def count(self, stream: str) -> asyncio.Future[int]:
        """How many subscribers a stream has at the other workers. HandoverError as in `publish`."""
        return self._ask(self._counts, bus.frame(bus.COUNT, stream.encode()), None)

    def control(self, message: Mapping[str, object]) -> None:
        """Tell whoever runs the switch something."""
        self._write(bus.frame(bus.CONTROL, orjson.dumps(message)))

    def _ask(
        self, questions: Questions, frame: bytes, deliver: Callable[..., object] | None, *arguments: object
    ) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self.problem is not None:
            fail(answer, self.problem)
        elif questions.size >= self._hub.max_backlog:
            fail(answer, "more is posted than the server's other workers take")
        elif len(frame) - HEADER.size > bus.MAX_FRAME:
            fail(answer, "it is too large for the server's other workers")
        else:
            deadline = self._loop.time() + self._publish_timeout
            questions.add(Waiting(answer, deadline, len(frame) + WAITING_OVERHEAD, deliver, arguments))
            self._write(frame)
            if self._late_timer is None and self._publish_timeout:
                self._late_timer = self._loop.call_at(deadline, self._expire)
        return answer

    def _expire(self) -> None:
        now = self._loop.time()
        deadlines = [self._messages.expire(now, self._late), self._counts.expire(now, self._late)]
        soonest = min((deadline for deadline in deadlines if deadline is not None), default=None)
        # Some at a time: the rest of those that are late by then waits for it.
        self._late_timer = None if soonest is None else self._loop.call_at(
            max(soonest, now + self._publish_timeout / 16), self._expire)

    def _write(self, frame: bytes) -> None:
        if self._transport is None:
            return
        self._out.append(frame)
        if not self._flushing and not self._full:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None and self._out and not self._full:
            out, self._out = self._out, []
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._flush()
        if self._changed:
            self._report_soon()

    def _count_changed(self, stream: str) -> None:
        self._changed.add(stream)
        self._report_soon()

    def _report_soon(self) -> None:
        if self._report_timer is None and not self._full:
            self._report_timer = self._loop.call_at(self._reported + REPORT_SECONDS, self._report)

    def _report(self) -> None:
        self._report_timer = None
        if self._full:
            return
        changed, self._changed = self._changed, set()
        self._reported = self._loop.time()
        for frame in bus.counts_frames((stream.encode(), self._hub.subscribers(stream)) for stream in changed):
            self._write(frame)

    # What is read

    def data_received(self, data: bytes) -> None:
        try:
            self._parse(self._rest.followed_by(data))
        except ValueError as problem:
            logger.error("the switch between the workers sent a broken frame: %s", problem)
            if self._transport is not None:
                self._transport.abort()
            return
        if self._hub.congested and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._congested_timer = self._loop.call_later(CONGESTED_SECONDS, self._resume_reading)

    def _resume_reading(self) -> None:
        if self._hub.congested:
            self._congested_timer = self._loop.call_later(CONGESTED_SECONDS, self._resume_reading)
        elif self._transport is not None:
            self._congested_timer = None
            self._transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        at, end = 0, len(data)
        deliver = self._hub.deliver
        unpack, header, plain = HEADER.unpack_from, HEADER.size, len(PLAIN)
        while end - at >= header:
            length, kind, p, q = unpack(data, at)
            start = at + header
            stop = start + length
            if stop > end:
                break
            try:
                if kind == bus.MESSAGE:
                    text = start + p
                    stream = data[start:text].decode()
                    if q == plain:
                        deliver(stream, data[text + q : stop - 1])
                    else:
                        deliver(stream, *decode_at(data[text:stop], q))
                else:
                    self._take(kind, data, start, stop, p)
            except Exception:
                logger.exception("a message of another worker could not be delivered")
            at = stop
        if at < end:
            self._rest.keep(data, at)

    def _take(self, kind: int, data: bytes, start: int, stop: int, p: int) -> None:
        """A frame that is no message."""
        if kind == bus.ACCEPTED:
            for (count,) in struct.iter_unpack(">I", data[start:stop]):
                self._accepted(self._messages.answered(), count)
            if self._finished is not None and not self._messages.waiting and not self._finished.done():
                self._finished.set_result(None)
        elif kind == bus.COUNTED:
            answer = self._counts.answered().answer
            if not answer.done():
                answer.set_result(int.from_bytes(data[start:stop], "big"))
        elif kind == bus.DISCONNECT:
            command = orjson.loads(data[start:stop])
            self._hub.sessions.disconnect(command["identifier"], command["reconnect"])
        elif kind == bus.RETAINED:
            if self._hub.retained is not None:
                self._hub.retained.keep(*bus.retained_in(data, start, stop, p))
        elif kind == bus.REPLAYED:
            if not self._replayed.done():
                self._replayed.set_result(None)
        elif kind == bus.LOST:
            logger.warning("messages of the other workers were lost here: this worker could not keep up")
            for stream in list(self._hub.streams):
                self._hub.lost(stream)
        elif kind == bus.CONTROL:
            self._on_control(orjson.loads(data[start:stop]))

    def _accepted(self, accepted: Waiting, count: int) -> None:
        assert accepted.deliver is not None
        try:
            accepted.deliver(*accepted.arguments)
        except Exception:
            logger.exception("a message could not be delivered")
        if not accepted.answer.done():
            accepted.answer.set_result(count)
