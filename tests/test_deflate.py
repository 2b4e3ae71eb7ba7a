"""Messages deflated and inflated (RFC 7692 §7.2), with the RFC's examples, zlib itself as oracle, and limits.

The C numbers in the ids are those of the project's catalogue of hostile input.
"""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastcable.deflate import SMALLEST, TRIED, WINDOW_BITS, deflate, inflate

RANDOM = random.Random(1)
TAIL = b"\x00\x00\xff\xff"
HELLO = "f248cdc9c907"


def deflated(data: bytes, flush: int = zlib.Z_SYNC_FLUSH, level: int = 9) -> bytes:
    """As another peer does it."""
    compressor = zlib.compressobj(level, wbits=-15)
    return (compressor.compress(data) + compressor.flush(flush)).removesuffix(TAIL)


def reference(payload: bytes, window_bits: int = 15) -> bytes:
    return zlib.decompressobj(-window_bits).decompress(payload + TAIL)


@pytest.mark.parametrize(("payload", "message"), [
    pytest.param(HELLO + "00", b"Hello", id="one-block"),
    pytest.param("000500faff48656c6c6f00", b"Hello", id="no-compression"),
    pytest.param("f348cdc9c9070000", b"Hello", id="final-block"),
    pytest.param("f348cdc9c90700", b"Hello", id="final-block-without-octet"),
    pytest.param("f248050000 00ffffcac9c90700", b"Hello", id="two-blocks"),
    pytest.param("00", b"", id="empty"),
    pytest.param("0200", b"", id="empty-block"),
    pytest.param("0300", b"", id="empty-final-block"),
    pytest.param("01", b"", id="empty-final-stored-block"),
    pytest.param("030000", b"", id="empty-final-block-and-octet"),
])
def test_the_forms_that_a_message_may_have(payload: str, message: bytes) -> None:
    assert inflate(bytes.fromhex(payload), 100) == message


@pytest.mark.parametrize("payload", [
    pytest.param(b"", id="C4-nothing"),
    pytest.param(b"\xff\xff\xff", id="C4-garbage"),
    pytest.param(b"Hello, world, this is no deflated data", id="C4-text"),
    pytest.param(bytes.fromhex(HELLO)[:-1], id="C4-truncated"),
    pytest.param(deflated(b"Hello " * 100)[:-3], id="C4-truncated-far-distance"),
    pytest.param(bytes.fromhex("000500faff48656c"), id="C4-truncated-stored-block"),
    pytest.param(bytes.fromhex("f396cdc9d9be60"), id="C4-end-found-in-what-is-put-behind"),
    pytest.param(zlib.compress(b"Hello"), id="C4-zlib-header"),
    pytest.param(b"\x1f\x8b" + deflated(b"Hello"), id="C4-gzip-header"),
    pytest.param(deflated(b"Hello " * 100)[5:], id="C4-reference-before-the-start"),
    pytest.param(bytes.fromhex(HELLO + "00") + TAIL, id="C4-end-twice"),
    pytest.param(bytes.fromhex("f348cdc9c907000000"), id="C4-something-behind-the-final-block"),
    pytest.param(bytes.fromhex("f348cdc9c90700") * 2, id="C4-two-final-blocks"),
    pytest.param(b"\x03\x00" * 100_000, id="C4-final-blocks-without-end"),
])
def test_what_cannot_be_inflated_is_told(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        inflate(payload, 1000)


@pytest.mark.parametrize("excess", [-1, 0, 1, 2])
@pytest.mark.parametrize("limit", [1, 2, 127, 65536, 131072])
def test_no_more_is_inflated_than_one_byte_beyond_the_limit(limit: int, excess: int) -> None:
    size = limit + excess
    assert inflate(deflated(bytes(size)), limit) == bytes(min(size, limit + 1))


def test_a_bomb_is_not_inflated() -> None:
    """C1: a thousand to one."""
    bomb = deflated(bytes(64 << 20))
    assert len(bomb) < 70_000
    tracemalloc.start()
    try:
        assert len(inflate(bomb, 100_000)) == 100_001
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [SMALLEST - 1, SMALLEST, SMALLEST + 1])
def test_small_messages_are_left_alone(size: int) -> None:
    payload = deflate(b"x" * size)
    assert (payload is None) == (size < SMALLEST)
    assert payload is None or reference(payload) == b"x" * size


@pytest.mark.parametrize("size", [TRIED - 1, TRIED, TRIED + 1, 1_000_000])
def test_large_messages(size: int) -> None:
    message = (b'{"type":"message","stream":"news","data":%d}' % size * (size // 40))[:size]
    payload = deflate(message)
    assert payload is not None
    assert len(payload) < size // 10
    assert reference(payload) == message


@pytest.mark.parametrize("size", [SMALLEST, TRIED, TRIED + 1, 1_000_000])
def test_what_gets_no_smaller_is_left_alone(size: int) -> None:
    assert deflate(RANDOM.randbytes(size)) is None


def test_a_large_message_must_get_half_as_large() -> None:
    message = RANDOM.randbytes(TRIED).hex().encode()
    assert deflate(message[:TRIED]) is not None
    assert deflate(message[: TRIED + 1]) is None


def test_of_a_large_message_only_the_beginning_is_tried() -> None:
    assert deflate(RANDOM.randbytes(TRIED) + bytes(1_000_000)) is None


def test_each_message_stands_for_itself_within_the_window() -> None:
    block = RANDOM.randbytes(1 << WINDOW_BITS)
    message = block + b"far" * 2000 + block
    for _ in range(2):
        payload = deflate(message)
        assert payload is not None
        assert reference(payload, WINDOW_BITS) == message


@given(st.binary(max_size=300).map(lambda data: data * 3))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_what_is_deflated_is_inflated_by_zlib_and_by_us(message: bytes) -> None:
    payload = deflate(message)
    if payload is not None:
        assert len(payload) < len(message)
        assert not payload.endswith(TAIL)
        assert reference(payload) == message
        assert inflate(payload, len(message)) == message


@given(
    st.binary(max_size=300), st.integers(0, 9), st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH]))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_what_zlib_deflates_is_inflated(message: bytes, level: int, flush: int) -> None:
    assert inflate(deflated(message, flush, level), len(message)) == message


@given(st.binary(max_size=60), st.integers(0, 300))
@example(b"\x00\x04\x00\xfb\xff", 100)
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
def test_arbitrary_data_is_inflated_as_by_zlib_or_not_at_all(payload: bytes, limit: int) -> None:
    try:
        message = inflate(payload, limit)
    except ValueError:
        return
    assert message == zlib.decompressobj(-15).decompress(payload + TAIL, limit + 1)
