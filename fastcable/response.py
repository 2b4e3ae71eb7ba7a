"""HTTP responses as bytes (RFC 9112 §4)."""

from __future__ import annotations

import orjson

_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {reason}\r\n".encode()
    for status, reason in {
        200: "OK",
        201: "Created",
        304: "Not Modified",
        400: "Bad Request",
        401: "Unauthorized",
        403: "Forbidden",
        404: "Not Found",
        405: "Method Not Allowed",
        408: "Request Timeout",
        413: "Content Too Large",
        414: "URI Too Long",
        415: "Unsupported Media Type",
        417: "Expectation Failed",
        426: "Upgrade Required",
        429: "Too Many Requests",
        431: "Request Header Fields Too Large",
        500: "Internal Server Error",
        501: "Not Implemented",
        503: "Service Unavailable",
        505: "HTTP Version Not Supported",
    }.items()
}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Response:
    """An answer that may be sent any number of times.

    `headers` are whole lines, each with its CRLF, without Content-Length and Connection. `close`: the connection must
    not be used again after it.
    """

    __slots__ = ("_plain", "close", "content", "headers", "status")

    def __init__(self, status: int, content: bytes, headers: bytes, *, close: bool = False) -> None:
        self.status = status
        self.content = content
        self.headers = headers
        self.close = close
        self._plain = b""

    def encode(self, connection: bytes = b"", *, body: bool = True) -> bytes:
        """The bytes to send; `connection` is a Connection header's line or nothing.

        Without `body` (HEAD, RFC 9110 §9.3.2) and with 304 the headers are those that would go with the content.
        """
        if not connection and body and self._plain:
            return self._plain
        encoded = b"%b%b%bContent-Length: %d\r\n\r\n%b" % (
            _STATUS_LINES[self.status],
            connection,  # first: some clients look at one Connection header only, and a 426 has another
            self.headers,
            len(self.content),
            self.content if body and self.status != 304 else b"",
        )
        if not connection and body:
            self._plain = encoded
        return encoded


def json_response(status: int, value: object, headers: bytes = b"", *, close: bool = False) -> Response:
    return Response(status, orjson.dumps(value), b"Content-Type: application/json\r\n" + headers, close=close)


def error(status: int, message: str, headers: bytes = b"", *, close: bool = False) -> Response:
    """The one-line JSON error of every refusal."""
    return json_response(status, {"error": message}, headers, close=close)
