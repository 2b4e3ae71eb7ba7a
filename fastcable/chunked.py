"""The body of a request that did not say its length (RFC 9112 §7.1)."""

from __future__ import annotations

from httptools import HttpParserError, HttpRequestParser

from fastcable._request import BadRequest

# Chunks of one byte cost five bytes of framing each: legal, and the worst that a sender with a reason would do.
FRAMING_PER_BYTE = 5


class ChunkedBody:
    """Decodes one chunked body; afterwards the connection must be closed, what follows the body is not looked at.

    A parser of its own is put behind a head made up here, so that the connection's parser needs no callback for bodies
    and never sees a chunk. `max_size` bounds the decoded bytes; sizes, extensions and trailers together may take
    `max_framing` bytes and five more for each decoded byte (0 = no limit).
    """

    __slots__ = ("_framing", "_max_framing", "_max_size", "_parser", "content", "done")

    def __init__(self, max_size: int, max_framing: int) -> None:
        self.content = bytearray()
        self.done = False
        self._max_size = max_size
        self._max_framing = max_framing
        self._framing = 0
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        # `close` makes the parser stop at the first byte behind the body.
        self._parser.feed_data(b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True when the body is whole. Raises `BadRequest`."""
        assert self._parser is not None
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserError as problem:
            if not self.done and not self._too_large():
                raise BadRequest(400, f"bad chunked body: {problem}") from None
        if self._too_large():
            raise BadRequest(413, f"body is larger than max_broadcast_size ({self._max_size} bytes)")
        if self.done:
            return True
        if self._max_framing and self._framing > self._max_framing + (FRAMING_PER_BYTE + 1) * len(self.content):
            raise BadRequest(400, "bad chunked body: more framing than content")
        return False

    def close(self) -> None:
        """Break the cycle with the parser."""
        self._parser = None

    def _too_large(self) -> bool:
        return 0 < self._max_size < len(self.content)

    # httptools callbacks

    def on_body(self, data: bytes) -> None:
        if not self._too_large():
            self.content += data

    def on_message_complete(self) -> None:
        self.done = True
