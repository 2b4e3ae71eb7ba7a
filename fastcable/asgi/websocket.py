"""One WebSocket of an ASGI server.

Theory of operation
-------------------
Two tasks serve a connection. The reader hands what arrives to the dialect. The writer sends what the dialect and the
groups have put into the queue, and a ping when `ping_interval` has passed. The connection is over when one of them is:
the reader, when the server tells of the end, the writer, when it has sent the close or the server takes nothing more.

The servers let `send` wait while a client does not take what was sent. Nothing tells us so but that the event loop goes
on to something else before `send` is done: then the queue's limits begin to hold (`blocked`). So a burst that a healthy
client takes whole is never cut, however long it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastcable._handshake import check_origin, negotiate
from fastcable._texts import TextSubscriber
from fastcable.asgi.http import respond, target_of
from fastcable.dialects.refusal import EXPIRED, POLICY_VIOLATION, Refusal
from fastcable.response import error

if TYPE_CHECKING:
    from fastcable.asgi.cable import Cable
    from fastcable.asgi.types import Event, Receive, Scope, Send
    from fastcable.dialects import Dialect
    from fastcable.response import Response
    from fastcable.tokens import Claims

logger = logging.getLogger("fastcable")

_LAST_WORD = 1.0  # seconds
_LOOK = 10.0  # seconds after which the system's clock is looked at again
_SHARE = 64
"""Texts that a writer sends before others have their turn."""
_FULL = error(503, "no more connections are taken", b"Retry-After: 5\r\n")


async def serve(cable: Cable, scope: Scope, receive: Receive, send: Send) -> None:
    """Accept a WebSocket on the cable's path, or refuse it, and serve it until its end."""
    if (await receive())["type"] != "websocket.connect":
        return
    origin = b",".join(value for name, value in scope["headers"] if name == b"origin") or None
    refusal = check_origin(origin, cable.allowed_origins)
    if refusal is not None:
        await refuse(scope, send, error(refusal.status, refusal.message, refusal.headers))
    elif not cable.enter():
        await refuse(scope, send, _FULL)
    else:
        try:
            name, protocol = negotiate(", ".join(scope.get("subprotocols", ())).encode())
            dialect, claims = admit(cable, scope, cable.dialects[name])
            await send({"type": "websocket.accept", "subprotocol": protocol and protocol.decode()})
            await WebSocket(cable, dialect, claims, receive, send).run()
        finally:
            cable.leave()


def admit(cable: Cable, scope: Scope, dialect: Dialect) -> tuple[Dialect, Claims | None]:
    """What is spoken with a client, which may be a goodbye, and what its token claims, where it needs one."""
    if cable.admission is None:
        return dialect, None
    claims = cable.admission.decide(target_of(scope), scope["headers"])
    return (Refusal(dialect, claims), None) if isinstance(claims, str) else (dialect, claims)


async def refuse(scope: Scope, send: Send, response: Response) -> None:
    if "websocket.http.response" in (scope.get("extensions") or ()):
        await respond(scope, send, response, "websocket.http.response")
    else:
        await send({"type": "websocket.close"})  # which servers answer with 403


class Ended(Exception):
    """The server takes nothing more for this connection."""


class WebSocket(TextSubscriber):
    """An accepted connection; `run` serves it until its end."""

    def __init__(
        self, cable: Cable, dialect: Dialect, claims: Claims | None, receive: Receive, send: Send
    ) -> None:
        super().__init__(cable.hub, dialect, cable.strict_limits if dialect.loses_silently else cable.limits)
        self.claims = claims
        self._cable = cable
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._asleep = False
        self._woken = asyncio.Event()
        self._relieved = asyncio.Event()
        self._close: tuple[int, str] | None = None
        self._told = 0

    async def run(self) -> None:
        self._writer = self._loop.create_task(self._write())
        tasks = [self._writer, self._loop.create_task(self._read())]
        if self.claims is not None and self.claims.expires is not None:
            tasks.append(self._loop.create_task(self._expire(self.claims.expires)))
        if self.claims is not None and self.claims.identifiers is not None:
            with self._cable:
                self.hub.sessions.add(self.claims.identifiers, self)
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # So do servers end what is left when they stop, and some say nothing to the client. Being cancelled once
            # more must not hide the first time: it carries whose cancellation it is.
            with contextlib.suppress(asyncio.CancelledError):
                await self._leave(tasks)
                await self._say_goodbye()
            raise
        await self._leave(tasks)

    async def _leave(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        with self._cable:
            self.hub.disconnected(self, False)
            self.outbox.drop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)  # gather would lose whose cancellation it is
        for task in tasks:
            problem = None if task.cancelled() else task.exception()
            if problem is not None and not isinstance(problem, Ended):
                logger.error("a connection failed", exc_info=problem)

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(Ended, TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                code, reason = 1001, "server stopping"
                farewell = self.dialect.farewell(code, reason)
                if farewell is not None:
                    await self._deliver({"type": "websocket.send", "text": farewell.decode()})
                await self._deliver({"type": "websocket.close", "code": code, "reason": reason})

    async def _expire(self, expires: float) -> None:
        """Close the connection when its token is not valid any more: by the system's clock, which may be set."""
        while (left := expires - time.time()) > 0:  # noqa: ASYNC110 (nobody tells of the time)
            await asyncio.sleep(min(left, _LOOK))
        with self._cable:
            self.close(POLICY_VIOLATION, EXPIRED)

    # What the subscriber is told: in `with cable`, by any thread

    def wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._call(self._woken.set)

    def end(self, code: int, reason: str) -> None:
        self._close = (code, reason)
        farewell = self.dialect.farewell(code, reason)
        if farewell is not None:
            self.outbox.answer(farewell)
        self.wake()
        self._call(self._begin_to_end)

    def _call(self, function: Callable[[], object]) -> None:
        if threading.get_ident() == self._thread:
            function()
        else:
            with contextlib.suppress(RuntimeError):  # its loop is closed, so the connection has ended
                self._loop.call_soon_threadsafe(function)

    # Reading

    async def _read(self) -> None:
        with self._cable:
            self.dialect.opened(self)
        while True:
            while self.outbox.answers_fill(1):
                # Who sends commands and does not read the answers is not read either.
                self._relieved.clear()
                await self._relieved.wait()
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                return
            if not self.closing:
                self._received(event.get("text"))

    def _received(self, text: str | None) -> None:
        limit = self._cable.settings.max_message_size
        with self._cable:
            try:
                if text is None:
                    return self.fail(1003, "text frames only")
                command = text.encode()
                if 0 < limit < len(command):
                    return self.fail(1009, "message too large")
                self.dialect.received(self, command)
            except Exception:
                logger.exception("a connection failed")
                self.fail(1011, "internal error")

    # Writing

    async def _write(self) -> None:
        settings = self._cable.settings
        interval = settings.actioncable_ping_interval if self.dialect.timed_pings else settings.ping_interval
        next_ping = self._loop.time() + interval
        sent = 0
        while True:
            if (text := self._next()) is not None:
                await self._deliver({"type": "websocket.send", "text": text.decode()})
                sent += 1
                if sent % _SHARE == 0:
                    await asyncio.sleep(0)
            elif self._close is not None:
                code, reason = self._close
                await self._deliver({"type": "websocket.close", "code": code, "reason": reason})
                return
            else:
                try:
                    async with asyncio.timeout_at(next_ping if interval else None):
                        await self._woken.wait()
                except TimeoutError:
                    await self._deliver({"type": "websocket.send", "text": self._ping().decode()})
                    next_ping = self._loop.time() + interval

    def _ping(self) -> bytes:
        if not self.dialect.timed_pings:
            return self.dialect.ping
        self._told = max(self._told + 1, int(time.time()))  # greater than the last, whatever the clock does
        return self.dialect.ping % self._told

    def _next(self) -> bytes | None:
        with self._cable:
            text = self.outbox.take(self)
            if text is None and not self.closing:
                self._asleep = True
                self._woken.clear()
        if text is None or not self.outbox.answers_fill(2):
            self._relieved.set()
        return text

    async def _deliver(self, event: Event) -> None:
        waits = self._loop.call_soon(self._hold)
        try:
            await self._send(event)
        except Exception as problem:
            raise Ended from problem
        finally:
            waits.cancel()
            self.blocked = False

    def _hold(self) -> None:
        self.blocked = True

    def _begin_to_end(self) -> None:
        """A client that takes nothing more is not waited for long."""
        self._loop.call_later(self._cable.settings.close_timeout, self._writer.cancel)
