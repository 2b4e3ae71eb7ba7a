"""Chunked bodies, without sockets (RFC 9112 §7.1)."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable._request import BadRequest
from fastcable.chunked import ChunkedBody
from tests.peers.rawhttp import chunk

END = b"0\r\n\r\n"


def decode(*pieces: bytes, max_size: int = 0, max_framing: int = 0) -> bytes:
    """The content of a body that ends with the last piece."""
    body = ChunkedBody(max_size, max_framing)
    try:
        for piece in pieces[:-1]:
            assert not body.feed(piece)
        assert body.feed(pieces[-1])
    finally:
        body.close()
    return bytes(body.content)


def refusal(*pieces: bytes, max_size: int = 0, max_framing: int = 0) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        decode(*pieces, max_size=max_size, max_framing=max_framing)
    return caught.value


@given(st.lists(st.binary(min_size=1), max_size=5), st.data())
def test_content_is_what_was_cut_into_chunks(parts: list[bytes], data: st.DataObject) -> None:
    encoded = b"".join(map(chunk, parts)) + END
    cut = data.draw(st.integers(1, len(encoded) - 1))
    assert decode(encoded[:cut], encoded[cut:]) == b"".join(parts)


def test_a_body_may_come_byte_by_byte() -> None:
    encoded = chunk(b"hello") + chunk(b" world") + END
    assert decode(*(encoded[at : at + 1] for at in range(len(encoded)))) == b"hello world"


@pytest.mark.parametrize("encoded", [
    pytest.param(b"5\r\nhello\r\n" + END + b"GET / HTTP/1.1\r\n\r\n", id="a-request-follows"),
    pytest.param(b"5\r\nhello\r\n" + END + b"\xff\xff", id="garbage-follows"),
    pytest.param(b"5;a=b;c=\"d\"\r\nhello\r\n" + END, id="extensions"),
    pytest.param(b"0000000005\r\nhello\r\n00\r\n\r\n", id="leading-zeros"),
    pytest.param(b"5\r\nhello\r\n0\r\nA: b\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n", id="B7-trailers-are-dropped"),
])
def test_good_bodies(encoded: bytes) -> None:
    assert decode(encoded) == b"hello"


@pytest.mark.parametrize("encoded", [
    pytest.param(b"0x5\r\nhello\r\n" + END, id="B5-0x"),
    pytest.param(b"+5\r\nhello\r\n" + END, id="B5-plus"),
    pytest.param(b"-1\r\nhello\r\n" + END, id="B5-minus"),
    pytest.param(b"5_0\r\nhello\r\n" + END, id="B5-underscore"),
    pytest.param(b" 5\r\nhello\r\n" + END, id="B5-leading-space"),
    pytest.param(b"5 \r\nhello\r\n" + END, id="B5-trailing-space"),
    pytest.param(b"10000000000000005\r\nhello\r\n" + END, id="B5-17-digits"),
    pytest.param(b"fffffffffffffffff\r\nhello\r\n" + END, id="B5-17-f"),
    pytest.param(b"5\nhello\n0\n\n", id="B5-bare-LF"),
    pytest.param(b"5\r\nhello\n0\r\n\r\n", id="B5-LF-behind-data"),
    pytest.param(b"5\r\nhello0\r\n\r\n", id="B5-no-CRLF"),
    pytest.param(b"5\r\nhelloo\r\n" + END, id="B5-too-much-data"),
    pytest.param(b"\r\n\r\n", id="B5-no-size"),
    pytest.param(b"g\r\n", id="B5-no-digit"),
    pytest.param(b"5;a=\n\r\nhello\r\n" + END, id="B6-LF-in-extension"),
    pytest.param(b"5;\x00\r\nhello\r\n" + END, id="B6-NUL-in-extension"),
    pytest.param(b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n", id="B7-length-in-trailer"),
    pytest.param(b"5\r\nhello\r\n0\r\nbad trailer\r\n\r\n", id="B7-bad-trailer"),
])
def test_bad_bodies(encoded: bytes) -> None:
    assert refusal(encoded).status == 400


@pytest.mark.parametrize(("size", "fits"), [(99, True), (100, True), (101, False)], ids=["-1", "0", "+1"])
@pytest.mark.parametrize("step", [1, 40, 1000])
def test_b9_size_of_the_content(size: int, fits: bool, step: int) -> None:
    encoded = b"".join(chunk(b"x" * min(step, size - at)) for at in range(0, size, step)) + END
    if fits:
        assert len(decode(encoded, max_size=100)) == size
    else:
        assert refusal(encoded, max_size=100).status == 413


def test_b9_no_more_is_kept_than_one_piece_over_the_limit() -> None:
    body = ChunkedBody(100, 0)
    with pytest.raises(BadRequest):
        body.feed(b"".join(chunk(b"x" * 60) for _ in range(1000)))
    body.close()
    assert len(body.content) == 120


def test_a_huge_declared_chunk_allocates_nothing() -> None:
    body = ChunkedBody(100, 0)
    assert not body.feed(b"fffffffffffffff0\r\nhello")
    assert len(body.content) == 5
    body.close()


def test_b8_chunks_of_one_byte_are_allowed() -> None:
    encoded = chunk(b"x") * 100_000 + END
    assert len(decode(encoded, max_size=100_000, max_framing=16384)) == 100_000


@pytest.mark.parametrize(("framing", "fits"), [(99, True), (100, True), (101, False)], ids=["-1", "0", "+1"])
def test_b6_b7_framing_without_content(framing: int, fits: bool) -> None:
    """With no content yet, sizes and extensions may take `max_framing` bytes."""
    body = ChunkedBody(0, 100)
    head = b"5;" + b"a" * (framing - 2)
    if fits:
        assert not body.feed(head)
    else:
        with pytest.raises(BadRequest, match="framing"):
            body.feed(head)
    body.close()


def test_b7_a_flood_of_trailers_is_cut() -> None:
    assert refusal(chunk(b"x") + b"0\r\n", *[b"A: b\r\n" * 10] * 1000, max_framing=1000).status == 400


@pytest.mark.parametrize("encoded", [chunk(b"x"), b"zz", chunk(b"x") + END], ids=["part", "bad", "whole"])
def test_a_body_dies_without_the_garbage_collector(encoded: bytes) -> None:
    class Watched(ChunkedBody):
        pass

    gc.disable()
    try:
        body = Watched(0, 0)
        with contextlib.suppress(BadRequest):
            body.feed(encoded)
        body.close()
        watch = weakref.ref(body)
        del body
        assert watch() is None
    finally:
        gc.enable()
