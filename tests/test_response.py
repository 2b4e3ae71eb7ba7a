"""Responses as bytes."""

from __future__ import annotations

from fastcable.response import Response, error, json_response

CLOSE = b"Connection: close\r\n"


def test_a_response_has_a_length() -> None:
    response = json_response(200, {"a": 1}, b"X: y\r\n")
    assert response.encode() == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX: y\r\nContent-Length: 7\r\n\r\n{\"a\":1}")
    assert response.encode() is response.encode()


def test_a_connection_header_is_added_for_one_sending() -> None:
    response = json_response(200, 1)
    assert CLOSE in response.encode(CLOSE)
    assert CLOSE not in response.encode()


def test_without_body_the_headers_stay_the_same() -> None:
    response = json_response(200, {"a": 1})
    assert response.encode(body=False) + b'{"a":1}' == response.encode()
    assert response.encode(body=False) + b'{"a":1}' == response.encode()


def test_304_has_no_body() -> None:
    assert Response(304, b"abc", b"").encode() == b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n"


def test_an_error_is_one_line_of_json() -> None:
    assert error(400, 'a "b"\n\x00').content == b'{"error":"a \\"b\\"\\n\\u0000"}'
