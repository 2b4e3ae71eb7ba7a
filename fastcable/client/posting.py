"""One request, its answer, and what to make of failures: the same for `Publisher` and `AsyncPublisher`."""

# Theory of operation
#
# A message is published once or not at all, never twice. So the question at each failure is whether the server may have
# taken the request. It acts on a request when it has all of it, and the end of the body is known (Content-Length). So
# until the request's last byte is handed to the kernel it cannot be taken, by whatever server or proxy is there; from
# then on it may have been, and no failure tells: the end of the connection (EOF) is seen when the server closed an idle
# connection just before the request came, but also when it was killed just after it had published; a reset comes from
# servers that close with the request unread, but also from proxies that gave up waiting for one that had read it.
#
#   OPEN ──last byte handed over──► SENT ──answer──► 200: published; another status: `Refused`, the server says why
#     │                               └──end, reset, deadline, no HTTP──► `Unanswered`: may have been published
#     └──any failure──► not taken: `Unreachable`
#
# A kept connection may have ended while it was idle. That costs no message: one that the server has closed is readable
# and is thrown away before anything is sent; so is one that was idle for IDLE_SECONDS, long before the server closes
# it; and a failure in OPEN on a kept connection is the one case in which the request is sent again, on a new one. What
# is left is a server that closes in the instant between that look and the last byte, at its shutdown: `Unanswered`.
#
# A server may answer before it has the whole request (413, say), and then stop reading. So a failure to send is no
# failure yet: what has come is read, and an answer that began decides.
#
# The code is written with `await`, and knows no event loop: what it waits for are a `Waits`' methods. Those of
# `Publisher` block, so that its coroutines run to their end at the first step.

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Literal

import orjson

from fastcable.client.answer import Answer, BadAnswer
from fastcable.client.connection import Connection, Secure, Waits, connect
from fastcable.client.endpoint import Endpoint
from fastcable.client.errors import PublishError, Refused, TooLarge, Unanswered, Unreachable
from fastcable.client.kept import Kept
from fastcable.client.messages import batch, message
from fastcable.log import Throttle
from fastcable.options import DAY

OnError = Literal["raise", "log"]


class Posting:
    """What both publishers are made of."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        connect_timeout: float = 1.0,
        timeout: float = 2.0,
        on_error: OnError = "raise",
    ) -> None:
        self._endpoint = Endpoint.configured(url, key)
        if not (0 < connect_timeout <= DAY and 0 < timeout <= DAY):
            raise ValueError("connect_timeout and timeout must be seconds, above 0 and at most a day")
        if on_error not in ("raise", "log"):
            raise ValueError(f"on_error must be 'raise' or 'log', not {on_error!r}")
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._log_errors = on_error == "log"
        self._lost = Throttle(logger=logging.getLogger("fastcable.publisher"))
        self._secure = Secure()
        self._kept = Kept()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._endpoint.url!r})"

    async def _broadcast(self, waits: Waits, stream: str, data: object, retain: bool, exclude: str | None) -> int:
        try:
            return await self._post(waits, message(stream, data, retain, exclude))
        except PublishError as error:
            return self._failed(error)

    async def _broadcast_many(
        self, waits: Waits, messages: Iterable[tuple[str, object]], retain: bool, exclude: str | None
    ) -> int:
        try:
            body = batch(messages, retain, exclude)
            return await self._post(waits, body) if body else 0
        except PublishError as error:
            return self._failed(error)

    def _failed(self, error: PublishError) -> int:
        if not self._log_errors:
            raise error
        self._lost.log(logging.WARNING, "a message was not published: %s", error)
        return 0

    async def _post(self, waits: Waits, body: bytes) -> int:
        """Send a body and return the number of subscribers. Raises `PublishError`."""
        deadline = time.monotonic() + self._timeout
        request = self._endpoint.request(body)
        kept = self._kept.take()
        if kept is not None:
            try:
                return self._subscribers(await self._exchange(kept, request, waits, deadline))
            except Unreachable:
                if time.monotonic() >= deadline:
                    raise
        try:
            connection = await connect(self._endpoint, self._secure, waits, self._connect_timeout, deadline)
        except TimeoutError:
            seconds = min(self._connect_timeout, self._timeout)
            raise Unreachable(self._line(f"no connection within {seconds:g} s")) from None
        except OSError as error:
            raise Unreachable(self._line(_reason(error))) from None
        return self._subscribers(await self._exchange(connection, request, waits, deadline))

    async def _exchange(self, connection: Connection, request: bytes, waits: Waits, deadline: float) -> Answer:
        """Send the request and read its answer. Raises `Unreachable` or `Unanswered`."""
        answer = Answer()
        unsent: OSError | None = None
        reusable = False
        try:
            try:
                await connection.send(request, waits, deadline)
            except OSError as error:
                unsent = error
            while not answer.ended:
                if data := await connection.receive(waits, deadline):
                    answer.feed(data)
                else:
                    answer.end()
            reusable = answer.reusable and unsent is None
        except (OSError, BadAnswer) as error:
            if answer.status not in (0, 200):  # a refusal is known from its head on
                return answer
            problem = error if unsent is None else unsent
            if isinstance(problem, TimeoutError):
                reason = f"no answer within {self._timeout:g} s"
            elif unsent is not None:
                reason = "the connection was closed before the request was sent"
            elif isinstance(problem, BadAnswer):
                reason = str(problem)
            else:
                reason = "the answer broke off" if answer.begun else "the connection was closed without an answer"
            raise (Unanswered if unsent is None else Unreachable)(self._line(reason)) from None
        finally:
            if reusable:
                self._kept.add(connection)
            else:
                connection.close()
        return answer

    def _subscribers(self, answer: Answer) -> int:
        try:
            content = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            content = None
        if not isinstance(content, dict):
            content = {}
        if answer.status != 200:
            reason = str(content.get("error") or answer.reason.decode("latin-1"))
            if 300 <= answer.status < 400 and answer.location:
                reason += f" (to {answer.location.decode('latin-1')}, which is not followed)"
            reason = self._endpoint.harmless(reason)
            kind = TooLarge if answer.status == 413 else Refused
            raise kind(self._line(f"{answer.status} {reason}"), answer.status, reason)
        subscribers = content.get("subscribers")
        if type(subscribers) is not int:
            shown = self._endpoint.harmless(answer.content.decode("utf-8", "backslashreplace"))
            raise Unanswered(self._line(f"not a broadcast endpoint, it answered '{shown}'"))
        return subscribers

    def _line(self, reason: str) -> str:
        return f"{self._endpoint.url}: {reason}"


def _reason(error: OSError) -> str:
    """The system's words; of a certificate that does not hold just why."""
    problem = getattr(error, "verify_message", "")
    return f"certificate verify failed: {problem}" if problem else (error.strerror or str(error)).lower()
