"""Answers, read from bytes in whatever pieces they come. What publishers make of them is in test_publisher.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable.client.answer import MAX_BODY, MAX_HEAD, Answer, BadAnswer


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize(
    ("data", "status", "reason", "content", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"OK", b"{}", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"No Content", b"", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", 200, b"OK", b"{}", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"OK", b"{}", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", 200, b"OK", b"{}", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n0\r\n\r\n",
         200, b"OK", b"{}", True),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
         200, b"OK", b"", True),
    ],
    ids=["length", "204", "no reason", "close", "1.0", "1.0 kept", "chunked", "after 100"],
)  # fmt: skip
def test_answers_in_pieces(data: bytes, status: int, reason: bytes, content: bytes, reusable: bool, piece: int) -> None:
    answer = Answer()
    for at in range(0, len(data), piece):
        assert not answer.ended
        answer.feed(data[at : at + piece])
    assert answer.ended
    assert (answer.status, answer.reason, answer.content, answer.reusable) == (status, reason, content, reusable)


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    answer = Answer()
    answer.feed(b"HTTP/1.1 200 OK\r\n\r\n{")
    answer.feed(b"}")
    assert not answer.ended
    answer.end()
    assert (answer.ended, answer.content, answer.reusable) == (True, b"{}", False)


@pytest.mark.parametrize("behind", [b"x", b"\0", b"HTTP/1.1 500 No\r\nContent-Length: 1\r\n\r\ny"])
def test_what_comes_behind_changes_nothing_but_that_the_connection_is_given_up(behind: bytes) -> None:
    answer = Answer()
    answer.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" + behind)
    assert (answer.ended, answer.status, answer.reason, answer.content) == (True, 200, b"OK", b"{}")
    assert not answer.reusable


@pytest.mark.parametrize(("more", "fits"), [(-1, True), (0, True), (1, False)])
@pytest.mark.parametrize("piece", [1, 1000, 1 << 20])
def test_largest_head(more: int, fits: bool, piece: int) -> None:
    start, end = b"HTTP/1.1 200 OK\r\nX: ", b"\r\nContent-Length: 0\r\n\r\n"
    head = start + b"x" * (MAX_HEAD + more - len(start) - len(end)) + end
    answer = Answer()
    try:
        for at in range(0, len(head), piece):
            answer.feed(head[at : at + piece])
    except BadAnswer:
        assert not fits
    else:
        assert fits
        assert (answer.ended, answer.reusable) == (True, True)


@pytest.mark.parametrize(("more", "whole"), [(-1, True), (0, True), (1, False)])
@pytest.mark.parametrize("piece", [999, 1 << 20])
def test_largest_body(more: int, whole: bool, piece: int) -> None:
    size = MAX_BODY + more
    data = b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    answer = Answer()
    for at in range(0, len(data), piece):
        answer.feed(data[at : at + piece])
    assert answer.ended
    assert answer.reusable is whole
    assert len(answer.content) == min(size, MAX_BODY)


@given(st.binary(max_size=60), st.integers(1, 9))
def test_answers_of_any_bytes_are_read_or_refused(data: bytes, piece: int) -> None:
    answer = Answer()
    try:
        for at in range(0, len(data), piece):
            answer.feed(data[at : at + piece])
        answer.end()
    except BadAnswer:
        return
    assert answer.ended
