# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The head of an HTTP/1 request: bytes in, a checked `Request` or a `BadRequest` out (RFC 9112 §2-§6)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

import re
from functools import lru_cache

from httptools import HttpParserError, HttpParserInvalidURLError, HttpParserUpgrade, HttpRequestParser

cdef extern from "<string.h>" nogil:
    void* memmem(const void* haystack, size_t haystack_size, const void* needle, size_t needle_size)

HEAD_END = b"\r\n\r\n"
REPEATED_HEAD = 512  # bytes
cdef object _matches_host = lru_cache(maxsize=64)(  # RFC 3986 §3.2.2
    re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?").fullmatch
)
cdef enum:
    MAX_HOST = 261  # bytes: a name of 255, and a port


class BadRequest(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


cdef class Request:
    def __init__(self, bytes method, bytes target, str version, list headers, bint keep_alive):
        self.method = method
        self.target = target
        self.path = target.partition(b"?")[0]
        self.version = version
        self.headers = headers
        self.fields = {}
        for name, value in headers:  # dict(headers) takes four times as long
            self.fields[name] = value
        self.keep_alive = keep_alive
        self.length = 0
        self.check()

    cpdef list values(self, bytes name):
        return [value for other, value in self.headers if other == name]

    cdef int check(self) except -1:
        """Refuse what httptools lets through."""
        cdef dict fields = self.fields
        cdef bint modern = self.version == "1.1"
        if not modern and self.version != "1.0":
            raise BadRequest(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if not self.target.startswith(b"/"):
            raise BadRequest(400, "the request target must be a path")
        host = fields.get(b"host")
        if host is None:
            if modern:
                raise BadRequest(400, "the Host header is missing")
        elif len(host) > MAX_HOST or _matches_host(host) is None:
            raise BadRequest(400, "bad Host header")
        elif len(fields) != len(self.headers) and len(self.values(b"host")) > 1:
            raise BadRequest(400, "more than one Host header")
        length = fields.get(b"content-length")
        if length is not None:
            if len(length) > 20:  # int() refuses thousands of leading zeros, which httptools takes
                raise BadRequest(400, "bad Content-Length")
            self.length = int(length)
        if b"transfer-encoding" in fields:
            if not modern:
                raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")
            if [coding.lower() for coding in self.values(b"transfer-encoding")] != [b"chunked"]:
                raise BadRequest(501, "the only Transfer-Encoding taken is chunked")
            self.length = None
        if b"expect" in fields and modern:  # RFC 9110 §10.1.1: to be ignored in HTTP/1.0
            if [expectation.lower() for expectation in self.values(b"expect")] != [b"100-continue"]:
                raise BadRequest(417, "the only Expect taken is 100-continue")
            self.expects_continue = self.length != 0
        return 0


cdef class HeadParser:
    """Reads one head, in as many pieces as it comes.

    httptools limits nothing and goes on to whatever follows, so it is handed exactly one head: its end is looked for
    first, the last three bytes being remembered from one piece to the next, and the bytes are counted on the way. An
    unfinished head is parsed as it comes, so that garbage is refused at once. A body is never shown to httptools: the
    next request gets a new parser, which costs less than having the old one count along.

    The limits (0 = off): a head of `max_bytes` bytes, of which the target and each header line may take half, and
    `max_headers` headers. (nginx: 32 KiB in lines of 8, node: 16 KiB, uvicorn: 64 KiB, websockets: 128 lines of 8 KiB.)
    """

    def __init__(self, Py_ssize_t max_bytes, Py_ssize_t max_headers):
        self.max_bytes = max_bytes
        self.max_headers = max_headers
        self.method = self.tail = self.target = b""
        self.headers = []
        self.parser = HttpRequestParser(self)

    cpdef Py_ssize_t feed(self, bytes data, Py_ssize_t start=0) except -2:
        cdef Py_ssize_t end, stop, size
        cdef bytes tail
        if not self.size and (data[start] == b"\r" or data[start] == b"\n"):  # RFC 9112 §2.2: to be ignored
            start = len(data) - len(data[start:].lstrip(b"\r\n"))
            if start == len(data):
                return -1
        end = self.find_end(data, start)
        stop = len(data) if end < 0 else end
        size = self.size + stop - start
        if 0 < self.max_bytes < size:
            self.parse(data[start : start + self.max_bytes - self.size])
            raise self.too_long() or BadRequest(431, f"the head is larger than max_header_bytes ({self.max_bytes})")
        self.size = size
        self.parse(data if start == 0 and stop == len(data) else data[start:stop])
        if self.complete != (end >= 0):  # a safeguard: both have the same idea of an end
            raise BadRequest(400, "bad request head")
        if 0 < self.max_bytes < 2 * size:
            problem = self.too_long()
            if problem is not None:
                raise problem
        if 0 < self.max_headers < len(self.headers):
            raise BadRequest(431, f"more than max_headers ({self.max_headers}) headers")
        if end < 0:
            tail = self.tail + data[max(start, stop - 3) :]
            self.tail = tail[max(len(tail) - 3, 0) :]
            return -1
        self.request = Request(
            self.method, self.target, self.parser.get_http_version(), self.headers, self.keep_alive)
        self.close()
        return end

    cpdef close(self):
        self.parser = None

    cdef Py_ssize_t find_end(self, bytes data, Py_ssize_t start) except -2:
        """The offset behind the head's end, or -1."""
        cdef const char* text = PyBytes_AS_STRING(data)
        cdef Py_ssize_t seam
        cdef void* found
        if self.tail:
            seam = (self.tail + data[start : start + 3]).find(HEAD_END)
            if seam >= 0:
                return start + seam + 4 - len(self.tail)
        found = memmem(text + start, PyBytes_GET_SIZE(data) - start, b"\r\n\r\n", 4)
        return <const char*>found - text + 4 if found is not NULL else -1

    cdef int parse(self, bytes data) except -1:
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # what an Upgrade means is for the endpoints to say
        except HttpParserInvalidURLError:
            raise BadRequest(400, "bad request target") from None
        except HttpParserError as problem:
            raise BadRequest(400, f"bad request: {problem}") from None
        return 0

    cdef object too_long(self):
        cdef Py_ssize_t limit = self.max_bytes // 2
        if len(self.target) > limit:
            return BadRequest(414, f"the request target is longer than half of max_header_bytes ({limit} bytes)")
        for name, value in self.headers:
            if len(name) + len(": ") + len(value) > limit:
                return BadRequest(431, f"a header line is longer than half of max_header_bytes ({limit} bytes)")
        return None

    # httptools callbacks

    def on_url(self, bytes piece not None):
        self.target = self.target + piece if self.target else piece

    def on_header(self, bytes name not None, bytes value not None):
        self.headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self):
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()  # httptools forgets it with the end of the message
        self.method = self.parser.get_method()


def _parse_head(bytes head, Py_ssize_t max_bytes, Py_ssize_t max_headers):
    cdef HeadParser parser = HeadParser(max_bytes, max_headers)
    try:
        parser.feed(head)
    finally:
        parser.close()
    return parser.request


# What is remembered is bounded by the callers: they pass heads of REPEATED_HEAD bytes at most.
parse_head = lru_cache(maxsize=256)(_parse_head)
