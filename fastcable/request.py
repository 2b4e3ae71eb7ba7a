"""The head of an HTTP/1 request: bytes in, a checked `Request` or a `BadRequest` out (RFC 9112 §2-§6)."""

from __future__ import annotations

import re
from functools import lru_cache

from httptools import HttpParserError, HttpParserInvalidURLError, HttpParserUpgrade, HttpRequestParser

HEAD_END = b"\r\n\r\n"
REPEATED_HEAD = 512  # bytes
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")  # RFC 3986 §3.2.2
_MAX_HOST = 255 + len(":65535")


class BadRequest(Exception):
    """A request refused for its form or size: the status to answer with, and one line of explanation."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request:
    """One request's head. Header names are lower case, values without surrounding white space. Never changed."""

    __slots__ = ("expects_continue", "fields", "headers", "keep_alive", "length", "method", "path", "target", "version")

    def __init__(
        self, method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]], keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.path = target.partition(b"?")[0]
        self.version = version
        self.headers = headers
        self.fields = dict(headers)
        """The last value of each header."""
        self.keep_alive = keep_alive
        self.length: int | None = 0
        """Bytes of the body; None when it is chunked."""
        self.expects_continue = False
        self._check()

    def values(self, name: bytes) -> list[bytes]:
        """The values of all headers of that lower-case name."""
        return [value for other, value in self.headers if other == name]

    def _check(self) -> None:
        """Refuse what httptools lets through."""
        fields = self.fields
        if self.version != "1.1" and self.version != "1.0":
            raise BadRequest(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if not self.target.startswith(b"/"):
            raise BadRequest(400, "the request target must be a path")
        host = fields.get(b"host")
        if host is None:
            if self.version == "1.1":
                raise BadRequest(400, "the Host header is missing")
        elif not _is_host(host):
            raise BadRequest(400, "bad Host header")
        elif len(fields) != len(self.headers) and len(self.values(b"host")) > 1:
            raise BadRequest(400, "more than one Host header")
        length = fields.get(b"content-length")
        if length is not None:
            if len(length) > 20:  # int() refuses thousands of leading zeros, which httptools takes
                raise BadRequest(400, "bad Content-Length")
            self.length = int(length)
        if b"transfer-encoding" in fields:
            if self.version == "1.0":
                raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")
            if [coding.lower() for coding in self.values(b"transfer-encoding")] != [b"chunked"]:
                raise BadRequest(501, "the only Transfer-Encoding taken is chunked")
            self.length = None
        if b"expect" in fields and self.version == "1.1":  # RFC 9110 §10.1.1: to be ignored in HTTP/1.0
            if [expectation.lower() for expectation in self.values(b"expect")] != [b"100-continue"]:
                raise BadRequest(417, "the only Expect taken is 100-continue")
            self.expects_continue = self.length != 0


@lru_cache(maxsize=64)
def _matches_host(host: bytes) -> bool:
    return _HOST.fullmatch(host) is not None


def _is_host(host: bytes) -> bool:
    return len(host) <= _MAX_HOST and _matches_host(host)


class HeadParser:
    """Reads one head, in as many pieces as it comes.

    httptools limits nothing and goes on to whatever follows, so it is handed exactly one head: its end is looked for
    first, the last three bytes being remembered from one piece to the next, and the bytes are counted on the way. An
    unfinished head is parsed as it comes, so that garbage is refused at once. A body is never shown to httptools: the
    next request gets a new parser, which costs less than having the old one count along.

    The limits (0 = off): a head of `max_bytes` bytes, of which the target and each header line may take half, and
    `max_headers` headers. (nginx: 32 KiB in lines of 8, node: 16 KiB, uvicorn: 64 KiB, websockets: 128 lines of 8 KiB.)
    """

    __slots__ = ("_complete", "_headers", "_keep_alive", "_max_bytes", "_max_headers", "_parser", "_size", "_tail",
                 "_target", "method", "request")

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        self.method = b""
        """Known when the head ended, also of a request that is refused then."""
        self.request: Request | None = None
        """Set when the head ended."""
        self._max_bytes = max_bytes
        self._max_headers = max_headers
        self._size = 0
        self._tail = b""
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._complete = False
        self._keep_alive = False
        self._parser: HttpRequestParser | None = HttpRequestParser(self)

    @property
    def started(self) -> bool:
        """Part of a request has come; empty lines before it are none."""
        return self._size > 0

    def feed(self, data: bytes, start: int = 0) -> int:
        """Read on at data[start]. Returns where the head ended, with `request` set; -1: more is needed.

        Raises `BadRequest`.
        """
        if not self._size and data[start] in b"\r\n":  # RFC 9112 §2.2: to be ignored
            start = len(data) - len(data[start:].lstrip(b"\r\n"))
            if start == len(data):
                return -1
        end = self._find_end(data, start)
        stop = len(data) if end < 0 else end
        size = self._size + stop - start
        if 0 < self._max_bytes < size:
            self._parse(data[start : start + self._max_bytes - self._size])
            raise self._too_long() or BadRequest(431, f"the head is larger than max_header_bytes ({self._max_bytes})")
        self._size = size
        self._parse(data[start:stop])
        if self._complete != (end >= 0):  # a safeguard: both have the same idea of an end
            raise BadRequest(400, "bad request head")
        if 0 < self._max_bytes < 2 * size and (problem := self._too_long()):
            raise problem
        if 0 < self._max_headers < len(self._headers):
            raise BadRequest(431, f"more than max_headers ({self._max_headers}) headers")
        if end < 0:
            self._tail = (self._tail + data[max(start, stop - 3) :])[-3:]
            return -1
        assert self._parser is not None
        version = self._parser.get_http_version()
        self.request = Request(self.method, self._target, version, self._headers, self._keep_alive)
        self.close()
        return end

    def close(self) -> None:
        """Break the cycle with httptools' parser."""
        self._parser = None

    def _find_end(self, data: bytes, start: int) -> int:
        """The offset behind the head's end, or -1."""
        if self._tail:
            seam = (self._tail + data[start : start + 3]).find(HEAD_END)
            if seam >= 0:
                return start + seam + len(HEAD_END) - len(self._tail)
        found = data.find(HEAD_END, start)
        return found + len(HEAD_END) if found >= 0 else -1

    def _parse(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # what an Upgrade means is for the endpoints to say
        except HttpParserInvalidURLError:
            raise BadRequest(400, "bad request target") from None
        except HttpParserError as problem:
            raise BadRequest(400, f"bad request: {problem}") from None

    def _too_long(self) -> BadRequest | None:
        limit = self._max_bytes // 2
        if len(self._target) > limit:
            return BadRequest(414, f"the request target is longer than half of max_header_bytes ({limit} bytes)")
        if any(len(name) + len(": ") + len(value) > limit for name, value in self._headers):
            return BadRequest(431, f"a header line is longer than half of max_header_bytes ({limit} bytes)")
        return None

    # httptools callbacks

    def on_url(self, piece: bytes) -> None:
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # httptools forgets it with the end of the message
        self.method = self._parser.get_method()


@lru_cache(maxsize=256)
def parse_head(head: bytes, max_bytes: int, max_headers: int) -> Request:
    """Read a whole head of the kind that comes again and again: publishers send the same but for Content-Length.

    What is remembered is bounded by the callers: they pass heads of `REPEATED_HEAD` bytes at most.
    """
    parser = HeadParser(max_bytes, max_headers)
    try:
        parser.feed(head)
    finally:
        parser.close()
    assert parser.request is not None
    return parser.request
