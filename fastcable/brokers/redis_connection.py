"""One connection to Redis, opened again whenever it is lost.

Theory of operation
-------------------
The connection is down or up. Down, it is being opened, at first at once and then after ever longer pauses (up to 5 s,
each shortened at random so that many servers do not come at once); a connection that held for a while starts over
with short ones. It is up once Redis answered a PING (that is loading, say, it would not) and, asked for its ROLE,
said that it is no replica. The *role* of the connection is told then (`opened`), and when it is down or stays so
(`down`, with the reason).

Commands are collected and written together once per turn of the event loop. Redis answers them in order, so who waits
for an answer stands in a queue: each answer is given to the first, until that says that it has all of them. Messages
of subscriptions come in between, and go to the role (`message`).

A peer that vanished without a word is found out by a PING every 3 s: when nothing at all was heard for 6 s after one,
the connection is cut. What we do not read ourselves (`pause`) cannot be heard, and does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from fastcable.brokers.redis_endpoint import CannotOpen, Endpoint, Opened
from fastcable.brokers.redis_replies import Replies, Reply, ReplyError

FIRST_PAUSE = 0.1  # seconds
LONGEST_PAUSE = 5.0
STEADY_SECONDS = 5.0
PING_SECONDS = 3.0
SILENCE_SECONDS = 6.0
MOST_BUFFERED = 256 << 10  # bytes that wait for the socket before `writable` is False

CONFIRMATIONS = (b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe")

Answered = Callable[[Reply], bool]
"""Takes an answer; True: there is no more to come. Raises `Unusable`."""


class Unusable(Exception):
    """An answer after which a connection is of no use, and why."""


class Role(Protocol):
    """What a connection is for."""

    def opened(self) -> None: ...
    def down(self, reason: str) -> None: ...
    def message(self, push: tuple[Reply, ...]) -> None:
        """Raises `Unusable`."""
    def writable(self) -> None:
        """The connection is not `full` any more."""


def command(*parts: bytes) -> bytes:
    """A command as Redis takes it."""
    pieces = [b"*%d\r\n" % len(parts)]
    pieces += [b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]
    return b"".join(pieces)


PING = command(b"PING")
ROLE = command(b"ROLE")


class RedisConnection(asyncio.Protocol):
    """`start` it, and `send` while it is `up`. `full`: Redis takes no more for now."""

    def __init__(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop, role: Role) -> None:
        self._endpoint = endpoint
        self._loop = loop
        self._role = role
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        # Of the connection that there is
        self.up = False
        self.full = False
        self._transport: asyncio.Transport | None = None
        self._replies = Replies()
        self._expected: deque[Answered] = deque()
        self._unsent: list[bytes] = []
        self._ended: asyncio.Future[None] | None = None
        self._paused = False
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        self._stopped = True
        while self._task is not None and not self._task.done():
            self._task.cancel()  # more than once, because in a handshake it may be taken for something else
            await asyncio.wait([self._task], timeout=0.1)

    # Life

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopped:
            began = self._loop.time()
            try:
                opened = await self._endpoint.open()
            except CannotOpen as error:
                self._role.down(str(error))
            else:
                try:
                    await self._begin(opened)
                finally:
                    self._end(None)
                    await opened.close()
                if self._loop.time() - began >= STEADY_SECONDS:
                    pause = FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _begin(self, opened: Opened) -> asyncio.Future[None]:
        """Take an open connection over; the future is done when it has ended."""
        self._transport = opened.transport
        self._replies = Replies()
        self._ended = self._loop.create_future()
        self.full = self._paused = False
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(MOST_BUFFERED)
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(PING_SECONDS, self._ping)
        self.send(PING, self._usable)
        self.send(ROLE, self._master)
        return self._ended

    def _end(self, reason: str | None) -> None:
        """The connection has ended, or must; for no reason when this side has stopped."""
        if self._transport is None:
            return
        assert self._timer is not None
        assert self._ended is not None
        self.up = False
        self._timer.cancel()
        if reason is not None:
            _give_up_unsent(self._transport)
        self._transport.abort()
        self._transport = None
        self._expected.clear()
        self._unsent.clear()
        if reason is not None:
            self._role.down(reason)
        if not self._ended.done():
            self._ended.set_result(None)

    def cut(self, reason: str) -> None:
        self._end(f"{self._endpoint.name}: {self._endpoint.line(reason)}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut(str(exc) if exc is not None else "the connection was closed")

    # Sending

    def send(self, commands: bytes, *answered: Answered) -> None:
        """Send this in the next turn of the event loop, with all else until then; `answered` of its answers."""
        if not self._unsent:
            self._loop.call_soon(self._write)
        self._unsent.append(commands)
        self._expected.extend(answered)

    def write(self, commands: list[bytes], answered: Answered, times: int) -> None:
        """Send this now, with what is to be sent in the next turn; `answered` of each of so many answers."""
        self._unsent += commands
        self._expected.extend([answered] * times)
        self._write()

    def _write(self) -> None:
        if self._unsent and self._transport is not None:
            unsent = b"".join(self._unsent)
            self._unsent.clear()
            self._transport.write(unsent)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.up:
            self._role.writable()

    # Receiving

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            for reply in self._replies.feed(data):
                if self._transport is None:
                    return
                if type(reply) is tuple:
                    kind = reply[0] if reply else None
                    if kind == b"message" or kind == b"pmessage":
                        self._role.message(reply)
                        continue
                    if kind not in CONFIRMATIONS:
                        continue
                if not self._expected:
                    raise Unusable("Redis answered what it was not asked")
                if self._expected[0](reply) and self._expected:
                    self._expected.popleft()
        except Unusable as unusable:
            self.cut(str(unusable))
            return
        if self._replies.problem is not None:
            self.cut(f"this is not Redis' protocol: {self._replies.problem}")

    def pause(self) -> None:
        """Read nothing more until `resume`."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._heard = self._loop.time()
            self._transport.resume_reading()

    # Probing

    def _usable(self, reply: Reply) -> bool:
        if isinstance(reply, ReplyError):
            raise Unusable(str(reply))
        return True

    def _master(self, reply: Reply) -> bool:
        """A replica would take messages, too, and pass them to nobody but its own subscribers."""
        if isinstance(reply, list) and reply and reply[0] in (b"slave", b"replica"):
            raise Unusable("it is a replica, and the master is needed")
        self.up = True
        self._role.opened()
        return True

    def _ping(self) -> None:
        self.send(PING, self._ponged)
        self._heard = self._loop.time()  # from here on
        self._timer = self._loop.call_later(SILENCE_SECONDS, self._check)

    def _ponged(self, reply: Reply) -> bool:
        self._usable(reply)
        assert self._timer is not None
        self._timer.cancel()
        self._timer = self._loop.call_later(PING_SECONDS, self._ping)
        return True

    def _check(self) -> None:
        silence = 0.0 if self._paused else self._loop.time() - self._heard
        if silence >= SILENCE_SECONDS:
            self.cut(f"nothing heard for {SILENCE_SECONDS:.0f} s")
        else:
            self._timer = self._loop.call_later(SILENCE_SECONDS - silence, self._check)


def _give_up_unsent(transport: asyncio.Transport) -> None:
    """Let the kernel forget what it has not sent, once this is closed. It would go on trying for a minute or more, and
    what its poster was told has failed would be published late and behind what is newer, when the network is back."""
    sock = transport.get_extra_info("socket")
    if sock is not None:  # else it is closed already, as far as TLS knows
        with contextlib.suppress(OSError):  # closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
