"""The answer to a request, read from bytes in as many pieces as they come (RFC 9112). It knows no socket."""

from __future__ import annotations

import httptools

MAX_HEAD = 16 * 1024
"""Bytes of the answer's head, those of interim answers (1xx) included."""
MAX_BODY = 64 * 1024
"""Bytes of the body that are read."""


class BadAnswer(Exception):
    """What came is no HTTP answer, or too much, or not all of it: one of these, for people."""


class Answer:
    """One final answer: interim ones are skipped. A body longer than `MAX_BODY` is cut there.

    `begun` as soon as a byte came, `ended` when `status`, `reason`, `location` and `content` hold all there is to have.
    `reusable`: nothing but the answer came, and the connection may be used again.
    """

    def __init__(self) -> None:
        self.begun = self.ended = self.reusable = False
        self.status = 0
        self.reason = self.location = b""
        self.content = b""
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._in_body = self._framed = False
        self._head_room = MAX_HEAD

    def feed(self, data: bytes) -> None:
        """Read on. Raises `BadAnswer`."""
        self.begun = True
        if not self._in_body:
            head, data = data[: self._head_room], data[self._head_room :]
            self._head_room -= len(head)
            self._parse(head)
            if not self._head_room and not self._in_body:
                self._give_up(f"the answer's head is larger than {MAX_HEAD} bytes")
        if data:
            self._parse(data)

    def end(self) -> None:
        """The connection ended. Raises `BadAnswer` if that was too early to know what was answered."""
        if not self._in_body:
            self._give_up("the answer broke off" if self.begun else "the connection was closed without an answer")
        if self._framed and self.status == 200 and not self.ended:
            self._give_up("the answer broke off")
        self.reusable = False
        self._end()

    def _parse(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.ended:
                self._give_up("the answer is not HTTP")
            self.reusable = False  # something came behind it
        if self.ended:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self._parser = None  # it refers to us

    def _give_up(self, reason: str) -> None:
        self._parser = None
        raise BadAnswer(reason)

    # Called by the parser

    def on_message_begin(self) -> None:
        self.reusable = False  # a second answer to one request, if this one has ended
        if not self.ended:
            self.reason = self.location = b""
            self._framed = False

    def on_status(self, reason: bytes) -> None:
        if not self.ended:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self.ended:
            return
        if name == b"location":
            self.location = value
        elif name == b"content-length" or (name == b"transfer-encoding" and value.lower().endswith(b"chunked")):
            self._framed = True

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if not self.ended and status >= 200:
            self.status = status
            self.reusable = self._parser.should_keep_alive()
            self._in_body = True

    def on_body(self, data: bytes) -> None:
        if self.ended:
            return
        room = MAX_BODY - len(self.content)
        self.content += data[:room]
        if len(data) > room:
            self.ended = True
            self.reusable = False

    def on_message_complete(self) -> None:
        self.ended = self.ended or self._in_body
