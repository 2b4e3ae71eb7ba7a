"""Frames (RFC 6455 §5): a table of bad and odd input cut everywhere, limits, memory, other implementations as oracle.

The F numbers in the ids are those of the project's catalogue of hostile input, one number per kind of frame trouble.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame as WebsocketsFrame
from websockets.frames import Opcode as WebsocketsOpcode
from websockets.protocol import SERVER, Protocol
from wsproto.frame_protocol import CloseReason, FrameProtocol, ParseFailed
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from fastcable._frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FAILED,
    NEED_DATA,
    PING,
    PONG,
    TEXT,
    FrameParser,
    encode_close,
    encode_frame,
    join_text_frames,
)

KEY = b"\x37\xfa\x21\x3d"

Event = tuple[int, bytes]
# How a peer's bytes end: "open" between messages, "waiting" inside one, or the code and reason of a close or a failure.
Ending = str | tuple[int, str]


def xor(data: bytes, key: bytes) -> bytes:
    return bytes(octet ^ key[i % 4] for i, octet in enumerate(data))


def head(
    opcode: int, length: int, *, fin: bool = True, rsv: int = 0, key: bytes | None = KEY, width: int | None = None
) -> bytes:
    """A frame's header, with the length in `width` more bytes (the fewest by default), which needn't be legal."""
    if width is None:
        width = 0 if length < 126 else 2 if length < 65536 else 8
    short = {0: length, 2: 126, 8: 127}[width]
    extended = length.to_bytes(width, "big") if width else b""
    return bytes([fin << 7 | rsv << 4 | opcode, (key is not None) << 7 | short]) + extended + (key or b"")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    width: int | None = None,
) -> bytes:
    body = payload if key is None else xor(payload, key)
    return head(opcode, len(payload), fin=fin, rsv=rsv, key=key, width=width) + body


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def fragments(*payloads: bytes, opcode: int = TEXT) -> bytes:
    last = len(payloads) - 1
    return b"".join(frame(CONTINUATION if i else opcode, p, fin=i == last) for i, p in enumerate(payloads))


def drain(parser: FrameParser) -> Iterator[Event]:
    while (event := parser.next()) > NEED_DATA:
        yield event, parser.payload


def read(parser: FrameParser, chunks: Iterable[bytes]) -> tuple[list[Event], Ending]:
    events: list[Event] = []
    for chunk in chunks:
        parser.feed(chunk)
        events += drain(parser)
    if parser.next() == FAILED or parser.code:
        return events, (parser.code, parser.reason)
    return events, "open" if parser.idle else "waiting"


def octets(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, positions: Iterable[int]) -> list[bytes]:
    return [data[a:b] for a, b in pairwise([0, *positions, len(data)])]


def traced() -> int:
    return tracemalloc.get_traced_memory()[0]


@pytest.fixture
def tracing() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    id: str
    data: bytes
    ending: Ending = "open"
    events: tuple[Event, ...] = ()
    seen_at: int | None = None  # the number of bytes after which the failure must be known, and not before
    max_message_size: int = 1000
    max_fragments: int = 8
    binary: bool = False

    def parser(self) -> FrameParser:
        return FrameParser(self.max_message_size, self.max_fragments, binary=self.binary)


def protocol_error(id: str, data: bytes, reason: str, *events: Event, seen_at: int | None = None) -> Case:
    return Case(id, data, (1002, reason), events, seen_at)


HELLO = frame(TEXT, b"hello")
START = frame(TEXT, b"start", fin=False)
POODLE = "ü€😀".encode()

CASES = [
    Case("empty", b""),
    Case("F0-text", HELLO, events=((TEXT, b"hello"),)),
    Case("F0-length-125", frame(TEXT, b"x" * 125), events=((TEXT, b"x" * 125),)),
    Case("F0-length-126", frame(TEXT, b"x" * 126), events=((TEXT, b"x" * 126),)),
    Case("F0-two-texts", HELLO + HELLO, events=((TEXT, b"hello"),) * 2),
    protocol_error("F1-unmasked-text", frame(TEXT, b"hello", key=None), "frame not masked", seen_at=2),
    protocol_error("F1-unmasked-empty-text", frame(TEXT, key=None), "frame not masked", seen_at=2),
    protocol_error("F1-unmasked-ping", frame(PING, b"x", key=None), "frame not masked", seen_at=2),
    protocol_error("F1-unmasked-close", frame(CLOSE, b"\x03\xe8", key=None), "frame not masked", seen_at=2),
    protocol_error("F1-unmasked-binary", frame(BINARY, b"x", key=None), "frame not masked", seen_at=2),
    protocol_error("F2-rsv1", frame(TEXT, b"hello", rsv=4), "reserved bit set", seen_at=2),
    protocol_error("F3-rsv2", frame(TEXT, b"hello", rsv=2), "reserved bit set", seen_at=2),
    protocol_error("F3-rsv3", frame(TEXT, b"hello", rsv=1), "reserved bit set", seen_at=2),
    protocol_error("F3-all-rsv", frame(TEXT, b"hello", rsv=7), "reserved bit set", seen_at=2),
    protocol_error("F4-rsv1-on-ping", frame(PING, b"x", rsv=4), "reserved bit set", seen_at=2),
    protocol_error("F4-rsv1-on-close", frame(CLOSE, b"\x03\xe8", rsv=4), "reserved bit set", seen_at=2),
    protocol_error(
        "F4-rsv1-on-continuation",
        START + frame(CONTINUATION, b"x", rsv=4),
        "reserved bit set",
        seen_at=len(START) + 2,
    ),
    *(
        protocol_error(f"F5-opcode-{opcode}", frame(opcode, b"x"), "reserved opcode", seen_at=2)
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ),
    *(
        protocol_error(f"F6-fragmented-{name}", frame(opcode, b"", fin=False), "fragmented control frame", seen_at=2)
        for name, opcode in (("close", CLOSE), ("ping", PING), ("pong", PONG))
    ),
    Case("F7-ping-of-125", frame(PING, b"x" * 125), events=((PING, b"x" * 125),)),
    protocol_error("F7-ping-of-126", frame(PING, b"x" * 126), "control frame too long", seen_at=2),
    protocol_error("F7-pong-of-126", frame(PONG, b"x" * 126), "control frame too long", seen_at=2),
    protocol_error("F7-close-of-126", close(1000, b"x" * 124), "control frame too long", seen_at=2),
    protocol_error("F7-ping-of-64KiB", head(PING, 65536), "control frame too long", seen_at=2),
    protocol_error("F7-short-ping-with-126", frame(PING, b"x", width=2), "control frame too long", seen_at=2),
    protocol_error("F8-126-for-5", frame(TEXT, b"hello", width=2), "length not minimal", seen_at=4),
    protocol_error("F8-126-for-0", frame(TEXT, b"", width=2), "length not minimal", seen_at=4),
    protocol_error("F8-126-for-125", frame(TEXT, b"x" * 125, width=2), "length not minimal", seen_at=4),
    protocol_error("F8-127-for-5", frame(TEXT, b"hello", width=8), "length not minimal", seen_at=10),
    protocol_error("F8-127-for-300", frame(TEXT, b"x" * 300, width=8), "length not minimal", seen_at=10),
    protocol_error("F8-127-for-65535", head(TEXT, 65535, width=8), "length not minimal", seen_at=10),
    protocol_error("F9-top-bit", head(TEXT, 1 << 63) + b"x", "length out of range", seen_at=10),
    protocol_error("F9-all-bits", head(TEXT, (1 << 64) - 1) + b"x", "length out of range", seen_at=10),
    protocol_error(
        "F9-top-bit-on-continuation",
        START + head(CONTINUATION, 1 << 63),
        "length out of range",
        seen_at=len(START) + 10,
    ),
    Case("F10-2^62", head(TEXT, 1 << 62), (1009, "message too large"), seen_at=10),
    Case("F10-2^63-1", head(TEXT, (1 << 63) - 1), (1009, "message too large"), seen_at=10),
    Case(
        "F10-2^63-1-after-a-fragment",
        START + head(CONTINUATION, (1 << 63) - 1),
        (1009, "message too large"),
        seen_at=len(START) + 10,
    ),
    Case("F10-2^62-without-limit", head(TEXT, 1 << 62), "waiting", max_message_size=0),
    Case(
        "F10-2^63-1-after-a-fragment-without-limit",
        START + head(CONTINUATION, (1 << 63) - 1),
        (1009, "message too large"),
        seen_at=len(START) + 10,
        max_message_size=0,
    ),
    *(Case(f"F11-{n}-bytes-of-a-header", head(TEXT, 65536)[:n], "waiting", max_message_size=0) for n in range(1, 15)),
    Case(
        "F13-endless-continuation",
        fragments(*[b"x" * 100] * 12),
        (1009, "message too large"),
        seen_at=10 * 106 + 2,
        max_fragments=0,
    ),
    Case("F14-3-empty-fragments", fragments(b"", b"", b""), events=((TEXT, b""),)),
    Case("F14-8-empty-fragments", fragments(*[b""] * 8), events=((TEXT, b""),)),
    Case("F14-9-empty-fragments", fragments(*[b""] * 9), (1008, "too many fragments"), seen_at=8 * 6 + 2),
    Case("F15-1-byte-fragments", fragments(*octets(b"hello")), events=((TEXT, b"hello"),)),
    protocol_error("F16-continuation-first", frame(CONTINUATION, b"x"), "continuation without a message", seen_at=2),
    protocol_error(
        "F16-unfinished-continuation-first",
        frame(CONTINUATION, b"x", fin=False),
        "continuation without a message",
        seen_at=2,
    ),
    protocol_error(
        "F16-continuation-after-message",
        fragments(b"a", b"b") + frame(CONTINUATION, b"x"),
        "continuation without a message",
        (TEXT, b"ab"),
        seen_at=2 * 7 + 2,
    ),
    protocol_error("F17-text-inside-message", START + HELLO, "message inside a fragmented message", seen_at=13),
    protocol_error(
        "F17-binary-inside-message", START + frame(BINARY, b"x"), "message inside a fragmented message", seen_at=13
    ),
    protocol_error(
        "F17-text-after-empty-start",
        frame(TEXT, fin=False) + HELLO,
        "message inside a fragmented message",
        seen_at=6 + 2,
    ),
    Case(
        "F18-ping-between-fragments",
        START + frame(PING, b"?") + frame(CONTINUATION, b"end"),
        events=((PING, b"?"), (TEXT, b"startend")),
    ),
    Case(
        "F18-many-between-fragments",
        START
        + frame(PING, b"p" * 125)
        + frame(PONG)
        + frame(CONTINUATION, b"-", fin=False)
        + frame(PING, b"q" * 99)
        + frame(CONTINUATION, b"end"),
        events=((PING, b"p" * 125), (PONG, b""), (PING, b"q" * 99), (TEXT, b"start-end")),
    ),
    Case("F18-ping-then-silence", START + frame(PING, b"?"), "waiting", ((PING, b"?"),)),
    *(
        Case(f"F19-{name}", frame(TEXT, b"some text" + text + after), (1007, "invalid UTF-8"))
        for name, text, after in (
            ("overlong-2", b"\xc0\xaf", b"."),
            ("overlong-2-max", b"\xc1\xbf", b"."),
            ("overlong-3", b"\xe0\x80\xaf", b"."),
            ("overlong-3-max", b"\xe0\x9f\xbf", b"."),
            ("overlong-4", b"\xf0\x80\x80\xaf", b"."),
            ("overlong-4-max", b"\xf0\x8f\xbf\xbf", b"."),
            ("overlong-5", b"\xf8\x80\x80\x80\xaf", b"."),
            ("overlong-6", b"\xfc\x80\x80\x80\x80\xaf", b"."),
            ("surrogate-first", b"\xed\xa0\x80", b"."),
            ("surrogate-last", b"\xed\xbf\xbf", b"."),
            ("surrogate-pair", b"\xed\xa0\xbd\xed\xb8\x80", b"."),
            ("U+110000", b"\xf4\x90\x80\x80", b"."),
            ("lead-f5", b"\xf5\x80\x80\x80", b"."),
            ("lead-ff", b"\xff", b"."),
            ("lone-continuation", b"\x80", b"."),
            ("truncated-2", b"\xc3", b""),
            ("truncated-3", b"\xe2\x82", b""),
            ("truncated-4", b"\xf0\x9f\x98", b""),
            ("interrupted-3", b"\xe2\x82", b"."),
            ("interrupted-4", b"\xf0\x9f", b"."),
            ("late-in-ASCII", b"x" * 40 + b"\xff" + b"x" * 40, b""),
        )
    ),
    *(
        Case(f"F19-valid-U+{point:04X}", frame(TEXT, chr(point).encode()), events=((TEXT, chr(point).encode()),))
        for point in (0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFEFF, 0xFFFE, 0xFFFF, 0x10000, 0x10FFFF)
    ),
    Case(
        "F19-character-truncated-by-the-last-fragment",
        fragments(b"a\xe2", b"\x82"),
        (1007, "invalid UTF-8"),
    ),
    Case("F20-characters-split-over-fragments", fragments(*octets(POODLE)), events=((TEXT, POODLE),), max_fragments=0),
    Case(
        "F20-character-split-around-a-ping",
        frame(TEXT, POODLE[:3], fin=False) + frame(PING) + frame(CONTINUATION, POODLE[3:]),
        events=((PING, b""), (TEXT, POODLE)),
    ),
    Case("F21-binary", frame(BINARY, b"hello"), (1003, "text frames only"), seen_at=2),
    Case("F21-fragmented-binary", fragments(b"a", b"b", opcode=BINARY), (1003, "text frames only"), seen_at=2),
    Case("F21-huge-binary", head(BINARY, 1 << 62), (1003, "text frames only"), seen_at=2),
    Case("F21-binary-allowed", frame(BINARY, b"\xff\0"), events=((BINARY, b"\xff\0"),), binary=True),
    Case(
        "F21-fragmented-binary-allowed",
        fragments(b"\xff", b"\xfe", opcode=BINARY),
        events=((BINARY, b"\xff\xfe"),),
        binary=True,
    ),
    protocol_error("F22-close-of-1-byte", frame(CLOSE, b"\x03"), "close frame of one byte", seen_at=7),
    *(
        protocol_error(f"F23-close-{code}", close(code, b"bye"), "illegal close code")
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
    *(
        Case(f"F24-close-{code}", close(code, b"bye"), (code, "bye"), ((CLOSE, code.to_bytes(2, "big") + b"bye"),))
        for code in (1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999)
    ),
    Case("F24-close-empty", frame(CLOSE), (1005, ""), ((CLOSE, b""),)),
    Case("F24-close-without-reason", close(1000), (1000, ""), ((CLOSE, b"\x03\xe8"),)),
    Case(
        "F25-close-reason-of-123-bytes",
        close(1000, b"x" * 123),
        (1000, "x" * 123),
        ((CLOSE, b"\x03\xe8" + b"x" * 123),),
    ),
    Case("F25-close-reason-UTF-8", close(1000, POODLE), (1000, POODLE.decode()), ((CLOSE, b"\x03\xe8" + POODLE),)),
    Case("F25-close-reason-bad-UTF-8", close(1000, b"\xed\xa0\x80"), (1007, "invalid UTF-8")),
    Case("F25-close-reason-truncated-UTF-8", close(1000, b"bye\xe2\x82"), (1007, "invalid UTF-8")),
    protocol_error("F25-close-reason-of-124-bytes", close(1000, b"x" * 124), "control frame too long", seen_at=2),
    protocol_error("F25-illegal-code-and-bad-UTF-8", close(1005, b"\xff"), "illegal close code"),
    Case("F26-two-closes", close(1000) + close(1001), (1000, ""), ((CLOSE, b"\x03\xe8"),)),
    Case("F26-ping-after-close", close(1000) + frame(PING), (1000, ""), ((CLOSE, b"\x03\xe8"),)),
    Case("F26-text-after-close", close(1000) + HELLO, (1000, ""), ((CLOSE, b"\x03\xe8"),)),
    Case("F26-rubbish-after-close", close(1000) + b"\xff" * 20, (1000, ""), ((CLOSE, b"\x03\xe8"),)),
    Case("F26-close-inside-message", START + close(1000), (1000, ""), ((CLOSE, b"\x03\xe8"),)),
    Case("F30-unsolicited-pong", frame(PONG, b"?") + frame(PONG), events=((PONG, b"?"), (PONG, b""))),
    Case("F33-empty-text", frame(TEXT), events=((TEXT, b""),)),
    Case("F33-empty-ping", frame(PING), events=((PING, b""),)),
    Case("F33-mask-key-0", frame(TEXT, b"hello", key=bytes(4)), events=((TEXT, b"hello"),)),
    Case("F33-header-only", head(TEXT, 5), "waiting"),
    Case("F33-unfinished-message", START, "waiting"),
]


def id_of(case: Case) -> str:
    return case.id


every_case = pytest.mark.parametrize("case", CASES, ids=id_of)


class TestTable:
    @every_case
    def test_whole(self, case: Case) -> None:
        assert read(case.parser(), [case.data]) == ([*case.events], case.ending)

    @every_case
    def test_single_octets(self, case: Case) -> None:
        assert read(case.parser(), octets(case.data)) == ([*case.events], case.ending)

    @every_case
    def test_cut_at_every_byte(self, case: Case) -> None:
        for position in range(len(case.data) + 1):
            chunks = cut(case.data, [position])
            assert read(case.parser(), chunks) == ([*case.events], case.ending), position

    @every_case
    def test_fed_twice_before_it_is_read(self, case: Case) -> None:
        for position in range(len(case.data) + 1):
            parser = case.parser()
            for chunk in cut(case.data, [position]):
                parser.feed(chunk)
            assert read(parser, [b""]) == ([*case.events], case.ending), position

    @every_case
    def test_what_came_before_in_the_same_bytes_is_not_lost(self, case: Case) -> None:
        before = HELLO + frame(PING, b"?")
        events, ending = read(case.parser(), [before + case.data])
        assert events == [(TEXT, b"hello"), (PING, b"?"), *case.events]
        assert ending == case.ending

    @pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.ending, tuple)], ids=id_of)
    def test_an_end_is_final(self, case: Case) -> None:
        parser = case.parser()
        read(parser, [case.data])
        for more in (HELLO, close(1001, b"again"), frame(TEXT, key=None), b"\xff" * 20):
            assert read(parser, [more]) == ([], case.ending)
        assert not parser.idle

    @pytest.mark.parametrize("case", [case for case in CASES if case.seen_at is not None], ids=id_of)
    def test_failure_is_known_from_the_first_bytes_that_show_it(self, case: Case) -> None:
        assert case.seen_at is not None
        parser = case.parser()
        assert read(parser, [case.data[: case.seen_at - 1]]) == ([*case.events], "waiting")
        assert read(parser, [case.data[case.seen_at - 1 : case.seen_at]]) == ([], case.ending)


def test_peer_that_is_a_server_must_not_mask() -> None:
    assert read(FrameParser(0, 0, masked=False), [frame(TEXT, b"hello", key=None)]) == ([(TEXT, b"hello")], "open")
    assert read(FrameParser(0, 0, masked=False), [HELLO[:2]]) == ([], (1002, "frame masked"))


@pytest.mark.parametrize("length", [0, 5, 125, 126, 65535, 65536])
def test_unmasked_frame_of_a_server_cut_everywhere(length: int) -> None:
    data = encode_frame(TEXT, b"x" * length) + encode_close(1001, "bye")
    for position in [*range(16), length // 2, *range(len(data) - 16, len(data))]:
        events, ending = read(FrameParser(0, 0, masked=False), cut(data, [max(position, 0)]))
        assert events == [(TEXT, b"x" * length), (CLOSE, b"\x03\xe9bye")]
        assert ending == (1001, "bye")


def test_payload_is_dropped_once_everything_is_read() -> None:
    parser = FrameParser(0, 0)
    parser.feed(HELLO)
    assert (parser.next(), parser.payload) == (TEXT, b"hello")
    assert (parser.next(), parser.payload) == (NEED_DATA, b"")


def test_idle_only_when_everything_is_read() -> None:
    parser = FrameParser(0, 0)
    assert parser.idle
    parser.feed(b"")
    assert parser.idle
    parser.feed(HELLO + frame(PING))
    assert not parser.idle
    assert parser.next() == TEXT
    assert not parser.idle
    assert parser.next() == PING
    assert parser.idle
    for octet in octets(START):
        parser.feed(octet)
        assert parser.next() == NEED_DATA
        assert not parser.idle
    parser.feed(frame(CONTINUATION))
    assert parser.next() == TEXT
    assert parser.idle


def test_one_parser_serves_many_peers_between_their_messages() -> None:
    """10,000 frames of different kinds and keys in one segment, and the parser is as new afterwards (F31)."""
    parser = FrameParser(1000, 4)
    rng = random.Random(31)
    for _ in range(3):
        sent = [(rng.choice([TEXT, PING, PONG]), b"%d" % rng.randrange(1 << 30)) for _ in range(10_000)]
        data = b"".join(encode_frame(opcode, payload, rng.randbytes(4)) for opcode, payload in sent)
        assert read(parser, [data]) == (sent, "open")


@pytest.mark.parametrize("limits", [(-1, 0), (0, -1)], ids=["max_message_size", "max_fragments"])
def test_negative_limit_is_refused(limits: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        FrameParser(*limits)


@pytest.mark.parametrize("data", [None, bytearray(b"x"), "x"], ids=["None", "bytearray", "str"])
def test_only_bytes_are_fed(data: object) -> None:
    with pytest.raises(TypeError):
        FrameParser(0, 0).feed(data)  # type: ignore[arg-type]


# --- limits -----------------------------------------------------------------------------------------------------------

SIZES = [1, 124, 125, 126, 127, 65535, 65536, 131072]


class TestMaxMessageSize:
    @pytest.mark.parametrize("limit", SIZES)
    @pytest.mark.parametrize("excess", [-1, 0, 1])
    def test_single_frame(self, limit: int, excess: int) -> None:
        payload = b"x" * (limit + excess)
        data = frame(TEXT, payload)
        expected = ([], (1009, "message too large")) if excess > 0 else ([(TEXT, payload)], "open")
        assert read(FrameParser(limit, 0), [data]) == expected
        assert read(FrameParser(limit, 0), cut(data, [len(data) // 2])) == expected

    @pytest.mark.parametrize("limit", SIZES)
    @pytest.mark.parametrize("excess", [-1, 0, 1])
    def test_sum_of_fragments(self, limit: int, excess: int) -> None:
        payload = b"x" * (limit + excess)
        first = (limit + 1) // 2
        data = fragments(payload[:first], b"", payload[first:])
        expected = ([], (1009, "message too large")) if excess > 0 else ([(TEXT, payload)], "open")
        assert read(FrameParser(limit, 0), [data]) == expected
        assert read(FrameParser(limit, 0), cut(data, [3, len(data) - 1])) == expected

    def test_counts_per_message(self) -> None:
        parser = FrameParser(10, 0)
        for _ in range(5):
            assert read(parser, [fragments(b"12345", b"67890")]) == ([(TEXT, b"1234567890")], "open")

    def test_leaves_control_frames_alone(self) -> None:
        data = frame(TEXT, b"12345", fin=False) + frame(PING, b"x" * 125) + frame(CONTINUATION, b"67890")
        assert read(FrameParser(10, 0), [data]) == ([(PING, b"x" * 125), (TEXT, b"1234567890")], "open")


class TestMaxFragments:
    @pytest.mark.parametrize("limit", [1, 2, 3, 4096])
    @pytest.mark.parametrize("excess", [-1, 0, 1])
    @pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "1-byte"])
    def test_frames_of_a_message(self, limit: int, excess: int, payload: bytes) -> None:
        count = limit + excess
        data = fragments(*[payload] * count) if count else b""
        expected: tuple[list[Event], Ending] = ([(TEXT, payload * count)] if count else [], "open")
        if excess > 0:
            expected = ([], (1008, "too many fragments"))
        assert read(FrameParser(0, limit), [data]) == expected
        assert read(FrameParser(0, limit), cut(data, [len(data) // 3])) == expected

    def test_counts_per_message_and_without_control_frames(self) -> None:
        parser = FrameParser(0, 2)
        data = START + frame(PING) * 5 + frame(CONTINUATION)
        for _ in range(5):
            assert read(parser, [data]) == ([(PING, b"")] * 5 + [(TEXT, b"start")], "open")


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tracing")
class TestMemory:
    def test_declared_length_is_not_allocated(self) -> None:
        parser = FrameParser(0, 0)
        chunk = head(TEXT, 131072) + b"x" * 10
        before = traced()
        parser.feed(chunk)
        assert parser.next() == NEED_DATA
        assert traced() - before < 512

    @pytest.mark.parametrize("length", [1 << 62, (1 << 63) - 1])
    def test_absurd_length_is_not_allocated(self, length: int) -> None:
        parser = FrameParser(0, 0)
        before = traced()
        tracemalloc.reset_peak()
        parser.feed(head(TEXT, length) + b"x" * 10)
        assert parser.next() == NEED_DATA
        assert tracemalloc.get_traced_memory()[1] - before < 1024

    @pytest.mark.parametrize("fragmented", [False, True], ids=["F12-1-byte-segments", "F15-1-byte-fragments"])
    def test_small_pieces_hold_what_was_received_and_grow_seldom(self, fragmented: bool) -> None:
        """At most half more than was received, in logarithmically many reallocations: the work is linear."""
        size = 65536
        payload = b"x" * size
        data = fragments(*octets(payload)) if fragmented else frame(TEXT, payload)
        step = 7 if fragmented else 1
        chunks = [data[i : i + step] for i in range(0, len(data), step)]
        last = chunks.pop()
        parser = FrameParser(size, size)
        growths = held = 0
        before = traced()
        for i, chunk in enumerate(chunks):
            parser.feed(chunk)
            assert parser.next() == NEED_DATA
            now = traced() - before
            assert now < 1.5 * i + 1024
            if now > held + 128:
                growths += 1
                held = now
        assert 5 < growths < 40
        parser.feed(last)
        assert parser.next() == TEXT
        assert parser.payload == payload
        assert traced() - before < size + 1024
        assert parser.next() == NEED_DATA
        assert traced() - before < 1024

    @pytest.mark.parametrize(
        ("end", "event"),
        [
            (frame(CONTINUATION), TEXT),
            (close(1000), CLOSE),
            (frame(TEXT), FAILED),
            (frame(CONTINUATION, b"\xff"), FAILED),
            (head(CONTINUATION, 1 << 62), FAILED),
        ],
        ids=["delivered", "closed", "protocol-error", "bad-UTF-8", "too-large"],
    )
    def test_nothing_stays_behind(self, end: bytes, event: int) -> None:
        parser = FrameParser(1 << 20, 0)
        start = frame(TEXT, b"x" * 100_000, fin=False)
        before = traced()
        parser.feed(start)
        assert parser.next() == NEED_DATA
        assert traced() - before > 100_000
        parser.feed(end)
        assert parser.next() == event
        parser.next()
        assert traced() - before < 1024

    def test_nothing_stays_behind_a_parser_dropped_in_a_message(self) -> None:
        start = frame(TEXT, b"x" * 100_000, fin=False)
        before = traced()
        parser = FrameParser(1 << 20, 0)
        parser.feed(start)
        assert parser.next() == NEED_DATA
        assert traced() - before > 100_000
        del parser
        assert traced() - before < 1024


def test_parser_is_no_work_for_the_garbage_collector() -> None:
    assert not gc.is_tracked(FrameParser(0, 0))


# --- masking and UTF-8 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [bytes(4), KEY, b"\xff\x00\xff\x00", b"\x00\x00\x00\x01"], ids=bytes.hex)
def test_mask_is_precise_for_every_size_and_phase(key: bytes) -> None:
    rng = random.Random(5)
    for size in range(70):
        payload = rng.randbytes(size)
        data = encode_frame(BINARY, payload, key)
        assert data == frame(BINARY, payload, key=key)
        data += HELLO
        for position in range(len(data)):
            events, _ = read(FrameParser(0, 0, binary=True), cut(data, [position]))
            assert events == [(BINARY, payload), (TEXT, b"hello")]


def decodes(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def accepts(text: bytes) -> bool:
    parser = FrameParser(0, 0, masked=False)
    parser.feed(encode_frame(TEXT, text))
    return parser.next() == TEXT


def test_utf8_agrees_with_python_on_every_pair_of_first_bytes() -> None:
    for first in range(256):
        for second in range(256):
            for rest in (b"", b"\x80", b"\xbf\xbf", b"\x7f", b"\x80\xc0", b"\x80\x80."):
                text = bytes([first, second]) + rest
                assert accepts(text) == decodes(text), text


@pytest.mark.parametrize("text", ["é", "€", "\U0010ffff"])
def test_utf8_behind_and_before_ascii_of_every_length(text: str) -> None:
    good = text.encode()
    for before in range(36):
        for after in range(36):
            assert accepts(b"x" * before + good + b"x" * after)
            assert not accepts(b"x" * before + good[:-1] + b"x" * after)
            assert not accepts(b"x" * before + good[1:] + b"x" * after)


@given(
    st.one_of(st.binary(max_size=64), st.text(max_size=40).map(str.encode)), st.integers(0, 64), st.binary(max_size=2)
)
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
def test_utf8_agrees_with_python(text: bytes, position: int, inserted: bytes) -> None:
    mutated = text[:position] + inserted + text[position:]
    assert accepts(mutated) == decodes(mutated)


# --- encoding ---------------------------------------------------------------------------------------------------------

LENGTHS = [0, 1, 2, 7, 8, 9, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 200_000]


class TestEncoding:
    @pytest.mark.parametrize("length", LENGTHS)
    def test_is_byte_equal_to_others(self, length: int) -> None:
        text = "x" * length
        server = FrameProtocol(client=False, extensions=[])
        assert encode_frame(TEXT, text.encode()) == server.send_data(text)
        assert encode_frame(BINARY, text.encode()) == server.send_data(text.encode())
        assert encode_frame(TEXT, text.encode()) == WebsocketsFrame(WebsocketsOpcode.TEXT, text.encode()).serialize(
            mask=False
        )
        if length <= 125:
            assert encode_frame(PING, text.encode()) == server.ping(text.encode())
            assert encode_frame(PONG, text.encode()) == server.pong(text.encode())

    @pytest.mark.parametrize("length", LENGTHS)
    def test_masked_is_read_by_others_and_by_us(self, length: int) -> None:
        payload = (b"0123456789abcdef" * (length // 16 + 1))[:length]
        data = encode_frame(TEXT, payload, b"\x9a\x00\x7f\xe1")
        assert read_wsproto(data) == ([(TEXT, payload)], "open")
        assert read_websockets([data]) == ([(TEXT, payload)], "open")
        assert read(FrameParser(0, 0), [data]) == ([(TEXT, payload)], "open")

    @pytest.mark.parametrize("length", LENGTHS)
    def test_what_others_masked_is_read(self, length: int) -> None:
        data = FrameProtocol(client=True, extensions=[]).send_data("x" * length)
        assert read(FrameParser(0, 0), [bytes(data)]) == ([(TEXT, b"x" * length)], "open")

    @pytest.mark.parametrize("opcode", [-1, 3, 7, 11, 15, 16, 0x81])
    def test_refuses_reserved_opcodes(self, opcode: int) -> None:
        with pytest.raises(ValueError, match="reserved opcode"):
            encode_frame(opcode, b"")

    @pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
    def test_refuses_long_control_frames(self, opcode: int) -> None:
        assert len(encode_frame(opcode, b"x" * 125)) == 127
        with pytest.raises(ValueError, match="at most 125"):
            encode_frame(opcode, b"x" * 126)

    @pytest.mark.parametrize("mask", [b"", b"abc", b"abcde"])
    def test_refuses_masks_that_are_not_4_bytes(self, mask: bytes) -> None:
        with pytest.raises(ValueError, match="must be 4"):
            encode_frame(TEXT, b"x", mask)

    def test_refuses_what_is_not_bytes(self) -> None:
        with pytest.raises(TypeError):
            encode_frame(TEXT, None)  # type: ignore[arg-type]


class TestEncodeClose:
    @pytest.mark.parametrize(
        ("reason", "sent"),
        [
            ("", b""),
            ("going away", b"going away"),
            ("x" * 122, b"x" * 122),
            ("x" * 123, b"x" * 123),
            ("x" * 124, b"x" * 123),
            ("x" * 121 + "é", b"x" * 121 + "é".encode()),
            ("x" * 122 + "é", b"x" * 122),
            ("x" * 120 + "€", b"x" * 120 + "€".encode()),
            ("x" * 121 + "€", b"x" * 121),
            ("x" * 122 + "€", b"x" * 122),
            ("x" * 120 + "😀", b"x" * 120),
            ("x" * 122 + "😀", b"x" * 122),
            ("é" * 500, "é".encode() * 61),
        ],
    )
    def test_cuts_the_reason_between_characters(self, reason: str, sent: bytes) -> None:
        """F32: no character is cut, nothing stale leaks."""
        data = encode_close(1001, reason)
        assert data == bytes([0x88, 2 + len(sent)]) + b"\x03\xe9" + sent
        assert data == FrameProtocol(client=False, extensions=[]).close(CloseReason.GOING_AWAY, reason)

    def test_without_a_code_is_empty(self) -> None:
        assert encode_close(1005) == encode_close(1005, "unused") == b"\x88\x00"

    def test_masked_is_read_back(self) -> None:
        data = encode_close(4321, "tschüß", KEY)
        assert read(FrameParser(0, 0), [data])[1] == (4321, "tschüß")

    @pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 65536])
    def test_refuses_codes_that_are_illegal_on_the_wire(self, code: int) -> None:
        with pytest.raises(ValueError, match="illegal on the wire"):
            encode_close(code)


class TestJoinTextFrames:
    @pytest.mark.parametrize(
        "payloads",
        [[], [b""], [b"a"], [b"a", b"", b"b"], [b"x" * n for n in range(110, 130)], [b"x" * n for n in LENGTHS]],
        ids=["none", "empty", "one", "three", "around-126", "all-lengths"],
    )
    @pytest.mark.parametrize(("before", "after"), [(b"", b""), (b'{"data":', b"}"), (b"b" * 65530, b"a" * 10)])
    def test_is_the_frames_in_order(self, payloads: list[bytes], before: bytes, after: bytes) -> None:
        frames = b"".join(encode_frame(TEXT, before + payload + after) for payload in payloads)
        assert join_text_frames(before, payloads, after) == frames

    def test_allocates_once(self, tracing: None) -> None:
        payloads = [b"x" * 1000] * 100
        before = traced()
        tracemalloc.reset_peak()
        frames = join_text_frames(b"before", payloads, b"after")
        assert tracemalloc.get_traced_memory()[1] - before < len(frames) + 1024

    @pytest.mark.parametrize("payload", [None, "x", bytearray(b"x"), 1], ids=["None", "str", "bytearray", "int"])
    def test_refuses_what_is_not_bytes(self, payload: object) -> None:
        with pytest.raises(TypeError):
            join_text_frames(b"", [b"good", payload], b"")  # type: ignore[list-item]

    @pytest.mark.parametrize("arguments", [(None, [], b""), (b"", None, b""), (b"", [], None), (b"", (b"x",), b"")])
    def test_refuses_wrong_arguments(self, arguments: tuple[bytes, list[bytes], bytes]) -> None:
        with pytest.raises(TypeError):
            join_text_frames(*arguments)


# --- other implementations as oracle ----------------------------------------------------------------------------------


def read_wsproto(data: bytes, protocol: FrameProtocol | None = None) -> tuple[list[Event], str | int]:
    """The events of wsproto's server side, and how it ends: "open", "closed", or the close code of a failure."""
    protocol = protocol or FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(data)
    events: list[Event] = []
    message = b""
    try:
        for received in protocol.received_frames():
            payload = received.payload
            if received.opcode is WsprotoOpcode.CLOSE:
                assert isinstance(payload, tuple)
                code, reason = payload
                events.append((CLOSE, b"" if code == 1005 else int(code).to_bytes(2, "big") + reason.encode()))
                return events, "closed"
            assert not isinstance(payload, tuple)
            octets = payload.encode() if isinstance(payload, str) else payload
            if received.opcode.iscontrol():
                events.append((int(received.opcode), octets))
                continue
            message += octets
            if received.message_finished:
                events.append((int(received.opcode), message))
                message = b""
    except ParseFailed as exc:
        return events, int(exc.code)
    return events, "open"


def read_websockets(chunks: Iterable[bytes], max_size: int | None = None) -> tuple[list[Event], str | int]:
    """The same for websockets' sans-I/O core, which leaves the UTF-8 of messages to others."""
    protocol = Protocol(SERVER, max_size=max_size)
    for chunk in chunks:
        protocol.receive_data(chunk)
    events: list[Event] = []
    message = b""
    opcode = 0
    for received in protocol.events_received():
        assert isinstance(received, WebsocketsFrame)
        octets = bytes(received.data)
        if received.opcode in (WebsocketsOpcode.CLOSE, WebsocketsOpcode.PING, WebsocketsOpcode.PONG):
            events.append((int(received.opcode), octets))
            continue
        opcode = int(received.opcode) or opcode
        message += octets
        if received.fin:
            events.append((opcode, message))
            message = b""
    if protocol.parser_exc is not None:
        assert protocol.close_sent is not None
        return events, int(protocol.close_sent.code)
    return events, "closed" if protocol.close_rcvd is not None else "open"


def read_ours(chunks: Iterable[bytes], max_message_size: int = 0) -> tuple[list[Event], str | int, bool]:
    """The same for our parser, and whether it is idle."""
    parser = FrameParser(max_message_size, 0, binary=True)
    events, ending = read(parser, chunks)
    if isinstance(ending, str):
        return events, "open", parser.idle
    return events, "closed" if events and events[-1][0] == CLOSE else ending[0], parser.idle


KEYS = st.binary(min_size=4, max_size=4)
CONTROL = st.one_of(st.binary(max_size=8), st.binary(min_size=120, max_size=125))
TEXTS = st.one_of(st.text(max_size=20), st.text("aé€😀", max_size=80), st.just("x" * 200)).map(str.encode)
CLOSES = st.one_of(
    st.just(b""),
    st.binary(max_size=6),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason,
        st.sampled_from([1000, 1001, 1003, 1004, 1005, 1006, 1011, 1013, 1015, 2000, 3000, 4999, 5000]),
        st.one_of(st.text(max_size=10).map(str.encode), st.binary(max_size=4)),
    ),
)


@st.composite
def sessions(draw: st.DrawFn, control: bool = True, closing: bool = True) -> bytes:
    """The valid bytes of a client: fragmented messages with control frames in between, and perhaps a close frame."""
    frames = []
    for _ in range(draw(st.integers(1, 5))):
        opcode = draw(st.sampled_from([TEXT, TEXT, BINARY]))
        payload = draw(TEXTS if opcode == TEXT else st.binary(max_size=140))
        positions = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        pieces = cut(payload, positions)
        for i, piece in enumerate(pieces):
            fin = i == len(pieces) - 1
            frames.append(frame(CONTINUATION if i else opcode, piece, fin=fin, key=draw(KEYS)))
            if control and draw(st.integers(0, 3)) == 0:
                frames.append(frame(draw(st.sampled_from([PING, PONG])), draw(CONTROL), key=draw(KEYS)))
    if closing and draw(st.booleans()):
        frames.insert(draw(st.integers(0, len(frames))), frame(CLOSE, draw(CLOSES), key=draw(KEYS)))
    return b"".join(frames)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(sessions()))
    for _ in range(draw(st.integers(0, 4))):
        i = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["flip", "replace", "insert", "delete", "truncate", "repeat"])):
            case "flip" if data:
                data[i] ^= 1 << draw(st.integers(0, 7))
            case "replace" if data:
                data[i] = draw(st.integers(0, 255))
            case "insert":
                data[i:i] = draw(st.binary(max_size=4))
            case "delete":
                del data[i : i + draw(st.integers(1, 4))]
            case "truncate":
                del data[i:]
            case "repeat":
                data[i:i] = data[i : i + draw(st.integers(1, 40))]
    return bytes(data)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Frames of arbitrary headers, which reach every rule more often than mutations do."""
    frames = []
    for _ in range(draw(st.integers(1, 4))):
        payload = draw(st.one_of(st.binary(max_size=6), TEXTS, CLOSES))
        frames.append(
            frame(
                draw(st.sampled_from([*range(16), *[TEXT, CONTINUATION, CLOSE, PING] * 5])),
                payload,
                fin=draw(st.integers(0, 3)) > 0,
                rsv=draw(st.sampled_from([0] * 12 + [*range(8)])),
                key=draw(st.one_of(KEYS, KEYS, KEYS, KEYS, st.none())),
                width=draw(st.sampled_from([None] * 6 + [2, 8])) if len(payload) < 126 else None,
            )
        )
    data = b"".join(frames)
    return data[: draw(st.integers(len(data) // 2, len(data)))] if draw(st.integers(0, 3)) == 0 else data


POSITIONS = st.lists(st.integers(0, 600), max_size=12).map(sorted)


def chunked(data: bytes, positions: list[int]) -> list[bytes]:
    return cut(data, [min(position, len(data)) for position in positions])


def assert_agrees_with_wsproto(data: bytes, positions: list[int]) -> None:
    events, ending, idle = read_ours(chunked(data, positions))
    protocol = FrameProtocol(client=False, extensions=[])
    their_events, their_ending = read_wsproto(data, protocol)
    if their_ending == "open" and isinstance(ending, int):
        # wsproto waits for the rest of a header, and for a byte of the payload, of which the first bytes suffice us.
        _, their_ending = read_wsproto(bytes(14), protocol)
    if their_ending == 1007:
        # wsproto tests UTF-8 as it arrives, we when the message is complete: control frames and whatever
        # breaks or ends the session before that come first with us. The message must not have been delivered.
        assert ending == 1007 or not idle
        assert events[: len(their_events)] == their_events
        assert not any(event in (TEXT, BINARY) for event, _ in events[len(their_events) :])
        return
    if events and events[-1][0] == CLOSE and events[-1][1][:2] == (1014).to_bytes(2, "big"):
        # wsproto does not know 1014, which IANA has registered.
        assert their_ending == 1002
        return
    assert (events, ending) == (their_events, their_ending)


@given(sessions(), POSITIONS)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_agrees_with_wsproto_on_sessions(data: bytes, positions: list[int]) -> None:
    assert_agrees_with_wsproto(data, positions)


@given(mutations(), POSITIONS)
@example(close(1014), [])
@example(frame(TEXT, b"\xff", fin=False) + frame(PING) + frame(TEXT), [])
@example(head(TEXT, 70000, rsv=4)[:2], [])
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
def test_agrees_with_wsproto_on_mutations(data: bytes, positions: list[int]) -> None:
    assert_agrees_with_wsproto(data, positions)


@given(headers(), POSITIONS)
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
def test_agrees_with_wsproto_on_arbitrary_headers(data: bytes, positions: list[int]) -> None:
    assert_agrees_with_wsproto(data, positions)


@given(sessions(closing=False), POSITIONS)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_agrees_with_websockets_on_sessions(data: bytes, positions: list[int]) -> None:
    """Closes and mutations are left out: websockets refuses a close inside a message and takes longer lengths."""
    chunks = chunked(data, positions)
    assert read_ours(chunks) == (*read_websockets(chunks), True)


@given(sessions(control=False, closing=False), POSITIONS, st.integers(1, 220))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_agrees_with_websockets_on_the_limit(data: bytes, positions: list[int], limit: int) -> None:
    """Control frames are left out: websockets counts them among the bytes of the message around them."""
    chunks = chunked(data, positions)
    assert read_ours(chunks, limit)[:2] == read_websockets(chunks, limit)


@given(st.binary(max_size=200), POSITIONS)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_result_does_not_depend_on_the_cuts(data: bytes, positions: list[int]) -> None:
    whole = read(FrameParser(100, 3), [data])
    assert read(FrameParser(100, 3), chunked(data, positions)) == whole
    assert read(FrameParser(100, 3), octets(data)) == whole
