"""Publishing over HTTP: `Publisher` for applications, and what `fastcable publish` adds for lines of stdin.

    with Publisher("http://127.0.0.1:3000/_broadcast", key) as publisher:
        publisher.publish("news", {"title": "Hello"})       # → number of subscribers

Delivery is at most once, so a request is repeated in one case only: a connection that was kept from an earlier
request ended before a byte of the answer came. That is how it looks when the server closed the idle connection just
before our request reached it, unread. A server that did read the request answers when it accepts the messages, before
it delivers any; so what was delivered had an answer, and is not sent again. The first request of a connection, an
answer that broke off, and one that did not come in time are errors: there, repeating might deliver twice.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import select
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import orjson

from fastcable.log import escape
from fastcable.options import KIB, Wrong, bearer_key

MAX_BATCH_ITEMS = 1000  # the server's max_batch
MAX_BATCH_BYTES = 512 * KIB  # half the server's max_broadcast_size
MAX_ANSWER = 64 * KIB


class PublishError(Exception):
    """One line: the messages were refused (`status` is the HTTP status), or the server could not be reached (0)."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class BadKey(ValueError):
    """The key cannot be sent in a header."""


class Unanswered(Exception):
    """The connection ended before the first byte of an answer."""


class Answer(http.client.HTTPResponse):
    """A response that tells an answer that never began from one that broke off."""

    def begin(self) -> None:
        try:
            begun = self.fp.peek(1)
        except ConnectionError:
            begun = b""
        if not begun:
            raise Unanswered
        super().begin()


class Publisher:
    """Posts messages to a broadcast endpoint over one kept connection. Not for use by several threads at once.

    `timeout` (seconds) holds for connecting and for each wait during a request. Raises ValueError for a bad `url`
    or `key`.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a user name or password")
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
            raise ValueError(f"expected http://HOST:PORT/PATH, got {escape(url)!r}")
        try:
            self._key = key and bearer_key(key)
        except Wrong as error:
            raise BadKey(str(error)) from None
        self._url = url
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        client = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = client(parts.hostname, parts.port, timeout=timeout)
        self._connection.response_class = Answer
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def publish(self, stream: str, data: object) -> int:
        """Send one message, of anything orjson can serialize, and return how many were subscribed.

        Raises `PublishError`.
        """
        return self.publish_json(stream, orjson.dumps(data))

    def publish_json(self, stream: str, data: bytes) -> int:
        """Send one message that is JSON already; its bytes reach the subscribers as they are."""
        return self._post(message(stream, data))

    def publish_batch(self, messages: Sequence[bytes]) -> int:
        """Send messages made with `message()` in order, all or none, and return the sum of their subscribers.

        Where the server takes no batch this large (413), halves are sent, each of them all or none.
        """
        if len(messages) == 1:
            return self._post(messages[0])
        try:
            return self._post(b"[" + b",".join(messages) + b"]")
        except PublishError as error:
            if error.status != 413:
                raise
        half = len(messages) // 2
        return self.publish_batch(messages[:half]) + self.publish_batch(messages[half:])

    def _post(self, body: bytes) -> int:
        kept = self._still_open()
        try:
            try:
                status, reason, answer = self._exchange(body)
            except Unanswered:
                self.close()
                if not kept:
                    raise
                status, reason, answer = self._exchange(body)
        except Unanswered:
            raise self._failed("the connection was closed without an answer") from None
        except TimeoutError:
            raise self._failed(f"no answer within {self._timeout:g} s") from None
        except OSError as error:
            raise self._failed((error.strerror or str(error)).lower()) from None
        except http.client.HTTPException as error:
            raise self._failed(f"the answer is not HTTP or broke off ({type(error).__name__})") from None
        return self._subscribers(status, reason, answer)

    def _failed(self, reason: str, status: int = 0) -> PublishError:
        self.close()
        return PublishError(f"{self._url}: {reason}", status)

    def _still_open(self) -> bool:
        """Whether a kept connection looks usable; one the server has closed is readable, and is given up unused."""
        if self._connection.sock is None:
            return False
        ended = select.poll()
        ended.register(self._connection.sock, select.POLLIN)
        if ended.poll(0):
            self.close()
            return False
        return True

    def _exchange(self, body: bytes) -> tuple[int, str, bytes]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if self._connection.sock is None:
            self._connection.connect()
        with contextlib.suppress(ConnectionError):  # a server that refuses early may have answered before it closed
            self._connection.request("POST", self._target, body, headers)
        response = self._connection.getresponse()
        answer = response.read(MAX_ANSWER)
        if not response.isclosed():
            self.close()
        return response.status, response.reason, answer

    def _subscribers(self, status: int, reason: str, answer: bytes) -> int:
        try:
            content = orjson.loads(answer)
        except orjson.JSONDecodeError:
            content = None
        if not isinstance(content, dict):
            content = {}
        if status != 200:
            raise self._failed(f"{status} {escape(str(content.get('error', reason)))}", status)
        subscribers = content.get("subscribers")
        if not isinstance(subscribers, int):
            raise self._failed(f"not a broadcast endpoint, it answered {escape(answer)!r}")
        return subscribers


def message(stream: str, data: bytes) -> bytes:
    """A message for `publish_batch`; `data` is JSON."""
    return b'{"stream":' + orjson.dumps(stream) + b',"data":' + data + b"}"


def as_json(text: bytes) -> bytes:
    """JSON stays as it is, byte for byte; any other text becomes a JSON string, bad UTF-8 in it U+FFFD."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.dumps(text.decode("utf-8", "replace"))
    return text


# ---------------------------------------------------------------------------------------------------------------------
# Lines of stdin


def publish_lines(publisher: Publisher, stream: str, descriptor: int) -> None:
    """Publish each line read from `descriptor` as a message, until its end.

    What is there is sent in batches, and as soon as the input pauses; while a batch is under way the next gathers in
    the pipe. Raises `PublishError` for the first batch that is refused; the lines before it are published.
    """
    messages = (None if line is None else message(stream, as_json(line)) for line in lines(descriptor))
    for batch in batches(messages):
        publisher.publish_batch(batch)


def batches(messages: Iterable[bytes | None]) -> Iterator[list[bytes]]:
    """Gather messages up to the limits of a batch; None asks for what there is now."""
    batch: list[bytes] = []
    size = 0
    for item in messages:
        if batch and (item is None or len(batch) == MAX_BATCH_ITEMS or size + len(item) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        if item is not None:
            batch.append(item)
            size += len(item)
    if batch:
        yield batch


def lines(descriptor: int) -> Iterator[bytes | None]:
    """Lines without their ends (LF or CRLF), the last one even if it has none; None when reading on would wait."""
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    start: list[bytes] = []
    while chunk := _read(descriptor):
        first, *others = chunk.split(b"\n")
        start.append(first)
        for following in others:
            yield b"".join(start).removesuffix(b"\r")
            start = [following]
        if not readable.poll(0):
            yield None
    if last := b"".join(start):
        yield last


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 64 * KIB)
    except OSError as error:
        raise PublishError(f"standard input: {(error.strerror or str(error)).lower()}") from None
