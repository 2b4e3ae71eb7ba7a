"""One WebSocket over a real socket: what breaks RFC 6455 and what does not, closing, vanishing, not reading."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from fastcable._connection import alive_connections
from fastcable._fanout import WebSocketGroup
from fastcable._frames import FrameParser
from fastcable._hub import Subscriber
from fastcable.dialects._simple import SimpleDialect
from tests.harness import CLOSE, PING, PONG, TEXT, UPGRADE, Client, LocalServer, Serve, frame

CONTINUATION, BINARY = 0, 2
SUBSCRIBE = frame(TEXT, b'{"type":"subscribe","stream":"s"}')
SUBSCRIBED = {"type": "subscribed", "stream": "s"}
VALID_CODES = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]
ILLEGAL_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.fixture
def server(serve: Serve) -> LocalServer:
    return serve(ticking=False)


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No peer brings the server to complain."""
    yield
    records = caplog.get_records("call") + caplog.get_records("teardown")
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == []


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def fragments(*payloads: bytes) -> bytes:
    """A text message in so many frames."""
    last = len(payloads) - 1
    return b"".join(
        frame(CONTINUATION if index else TEXT, payload, fin=index == last) for index, payload in enumerate(payloads)
    )


def header(first: int, second: int, extended: bytes = b"") -> bytes:
    return bytes([first, second]) + extended + b"\1\2\3\4"


# Violations (RFC 6455 §5 to §8)

OVERLONG = {
    "overlong": b"\xc0\xaf", "surrogate": b"\xed\xa0\x80", "past-U+10FFFF": b"\xf4\x90\x80\x80",
    "truncated": b"\xe2\x82", "lone-continuation": b"\x80", "five-bytes": b"\xf8\x88\x80\x80\x80", "ff": b"\xff",
}
VIOLATIONS = {
    "F1-unmasked": (b"\x81\x02{}", 1002),
    "F1-unmasked-ping": (b"\x89\x00", 1002),
    "F2-rsv1": (frame(TEXT, b"{}", rsv=4), 1002),
    "F3-rsv2": (frame(TEXT, b"{}", rsv=2), 1002),
    "F3-rsv3": (frame(TEXT, b"{}", rsv=1), 1002),
    "F3-all-rsv": (frame(TEXT, b"{}", rsv=7), 1002),
    "F4-rsv1-on-ping": (frame(PING, b"", rsv=4), 1002),
    "F4-rsv1-on-close": (frame(CLOSE, b"", rsv=4), 1002),
    "F4-rsv1-on-continuation": (frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b"}", rsv=4), 1002),
    **{f"F5-opcode-{opcode}": (frame(opcode, b""), 1002) for opcode in (*range(3, 8), *range(11, 16))},
    **{f"F6-fragmented-{opcode}": (frame(opcode, b"", fin=False), 1002) for opcode in (CLOSE, PING, PONG)},
    **{f"F7-long-{opcode}": (frame(opcode, b"x" * 126), 1002) for opcode in (CLOSE, PING, PONG)},
    "F7-64-bit-ping": (header(0x89, 0xFF, bytes(6) + b"\x01\x00"), 1002),
    "F8-16-bit-length-125": (header(0x81, 0xFE, b"\x00\x7d"), 1002),
    "F8-16-bit-length-0": (header(0x81, 0xFE, b"\x00\x00"), 1002),
    "F8-64-bit-length-65535": (header(0x81, 0xFF, bytes(6) + b"\xff\xff"), 1002),
    "F9-top-bit": (header(0x81, 0xFF, b"\x80" + bytes(7)), 1002),
    "F9-all-bits": (header(0x81, 0xFF, b"\xff" * 8), 1002),
    "F9-killed-nats": (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00", 1003),
    "F10-two-to-the-62": (header(0x81, 0xFF, b"\x40" + bytes(7)), 1009),
    "F13-endless-message": (frame(TEXT, b" ", fin=False) + frame(CONTINUATION, b" " * 60_000, fin=False) * 3, 1009),
    "F14-endless-empty-fragments": (
        frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 5000, 1008),
    "F16-continuation-without-start": (frame(CONTINUATION, b"{}"), 1002),
    "F16-unfinished-continuation-without-start": (frame(CONTINUATION, b"{", fin=False), 1002),
    "F16-continuation-after-the-end": (fragments(b'{"type":', b'"pong"}') + frame(CONTINUATION, b"{}"), 1002),
    "F17-text-in-a-message": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"{}"), 1002),
    "F17-binary-in-a-message": (frame(TEXT, b"{", fin=False) + frame(BINARY, b"{}"), 1002),
    **{f"F19-{name}": (frame(TEXT, text), 1007) for name, text in OVERLONG.items()},
    "F19-over-fragments": (fragments(b"\xe2", b"\x82", b"x"), 1007),
    "F21-binary": (frame(BINARY, b"{}"), 1003),
    "F21-empty-binary": (frame(BINARY, b""), 1003),
    "F21-fragmented-binary": (frame(BINARY, b"{", fin=False), 1003),
    "F22-close-of-one-byte": (frame(CLOSE, b"\x03"), 1002),
    **{f"F23-close-code-{code}": (close_frame(code), 1002) for code in ILLEGAL_CODES},
    **{f"F25-reason-{name}": (close_frame(1000, text), 1007) for name, text in OVERLONG.items()},
    "F25-reason-of-124-bytes": (close_frame(1000, b"x" * 124), 1002),
    "F33-one-byte-too-large": (frame(TEXT, b" " * (128 * 1024 + 1)), 1009),
    "H26-second-request": (UPGRADE, 1002),
    "H27-tls-client-hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 1002),
}
each_violation = pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())


def reason_for(data: bytes) -> str:
    parser = FrameParser(128 * 1024, 4096)
    parser.feed(data)
    while (event := parser.next()) > 0:
        pass
    assert event == -1
    return parser.reason


@each_violation
def test_a_violation_is_told_in_a_close_frame_before_the_end(server: LocalServer, data: bytes, code: int) -> None:
    with server.connect("s") as client, server.connect("s") as other:
        client.send(data)
        assert client.read_end() == (code, reason_for(data))
        server.publish("s", 1)
        other.expect({"type": "message", "stream": "s", "data": 1})
        client.close()
        server.wait_for_connections(1)


@each_violation
def test_a_violation_shows_behind_a_good_command_and_in_single_octets_too(
    server: LocalServer, data: bytes, code: int
) -> None:
    """F31: the header is judged as soon as it can be, and what stands before it has been carried out."""
    with server.connect() as client:
        client.send(SUBSCRIBE)
        for octet in data[:64]:
            client.send(bytes([octet]))
        client.send(data[64:])
        client.expect(SUBSCRIBED)
        assert client.read_end()[0] == code


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009])
def test_a_peer_that_goes_on_sending_after_a_violation_still_gets_the_close_frame(
    server: LocalServer, code: int
) -> None:
    """Closing a socket with unread input would reset it, and the reset eats what the peer has not read yet."""
    violation = next(data for data, expected in VIOLATIONS.values() if expected == code)
    with server.connect() as client:
        client.send(violation)
        for _ in range(64):
            client.send(b"\x81garbage " * 8192)
        assert client.read_end()[0] == code


def test_only_reasons_of_the_contract_and_no_stale_bytes_stand_in_close_frames(server: LocalServer) -> None:
    with server.connect() as client:
        client.send(frame(BINARY, b"\xffsecret"))
        assert client.read_until(b"only") == b"\x88\x12" + (1003).to_bytes(2, "big") + b"text frames only"
        client.read_eof()


# Messages


def test_empty_text_and_a_mask_of_zeros_are_legal(server: LocalServer) -> None:
    """F33."""
    with server.connect() as client:
        client.send(frame(TEXT, b""))
        assert client.receive()["type"] == "error"
        client.send(frame(TEXT, b'{"type":"subscribe","stream":"s"}', mask=bytes(4)))
        client.expect(SUBSCRIBED)


def test_the_largest_message_is_taken(server: LocalServer) -> None:
    """F33."""
    command = b'{"type":"subscribe","stream":"s"}'
    with server.connect() as client:
        client.send(frame(TEXT, command + b" " * (128 * 1024 - len(command))))
        client.expect(SUBSCRIBED)


@pytest.mark.parametrize("size", [1, 2, 7, 33])
def test_a_message_may_come_in_fragments_with_pings_between(server: LocalServer, size: int) -> None:
    """F18, F20: each ping is answered at once, before the message is complete, and the message is whole."""
    text = '{"type":"subscribe","stream":"zwölf Würstchen 🌭"}'.encode()
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    with server.connect() as client:
        for index, part in enumerate(parts[:-1]):
            client.send_frame(CONTINUATION if index else TEXT, part, fin=False)
            client.send_frame(PING, b"%d" % index)
            assert client.read_frame() == (PONG, b"%d" % index)
            client.send_frame(PONG, b"unasked")
        client.send_frame(CONTINUATION if len(parts) > 1 else TEXT, parts[-1])
        client.expect({"type": "subscribed", "stream": "zwölf Würstchen 🌭"})


def test_empty_fragments_are_legal(server: LocalServer) -> None:
    with server.connect() as client:
        client.send(fragments(b"", b'{"type":"subscribe",', b"", b'"stream":"s"}', b""))
        client.expect(SUBSCRIBED)
        client.send(fragments(b"", b"", b""))
        assert client.receive()["reason"] == "not valid JSON"


def test_a_large_message_in_fragments_of_one_byte_is_taken(serve: Serve) -> None:
    """F15: 64 KiB, each byte in a frame of its own."""
    server = serve(ticking=False, max_fragments=0)
    command = b'{"type":"subscribe","stream":"s"}'.ljust(65536)
    with server.connect() as client:
        client.send(fragments(*(bytes([octet]) for octet in command)))
        client.expect(SUBSCRIBED)


def test_pings_are_answered_with_their_payload(server: LocalServer) -> None:
    with server.connect() as client:
        for payload in (b"", b"x", bytes(range(125))):
            client.send_frame(PING, payload)
            assert client.read_frame() == (PONG, payload)


def test_a_flood_of_pongs_is_ignored(server: LocalServer) -> None:
    """F30, F31: 10,000 frames in one segment."""
    with server.connect() as client:
        client.send(frame(PONG, b"") * 10_000 + SUBSCRIBE)
        client.expect(SUBSCRIBED)


def test_ten_thousand_commands_in_one_write_are_answered_in_order(serve: Serve) -> None:
    """F31."""
    server = serve(ticking=False, max_subscriptions=0)
    streams = [f"{index}" for index in range(10_000)]
    with server.connect() as client:
        sender = threading.Thread(
            target=client.send,
            args=(b"".join(frame(TEXT, b'{"type":"subscribe","stream":"%d"}' % index) for index in range(10_000)),),
        )
        sender.start()
        client.expect(*({"type": "subscribed", "stream": stream} for stream in streams))
        sender.join()


def test_a_whole_session_in_single_octets(server: LocalServer) -> None:
    """F12, F31: the request too."""
    with Client(server.port) as client:
        for octet in UPGRADE:
            client.send(bytes([octet]))
        client.read_until(b"\r\n\r\n")
        for octet in SUBSCRIBE + frame(PING, b"hello") + fragments(b'{"type":', b'"nonsense"}') + close_frame(1000):
            client.send(bytes([octet]))
        client.expect(SUBSCRIBED)
        assert client.read_frame() == (PONG, b"hello")
        assert client.receive()["type"] == "error"
        assert client.read_end() == (1000, "")


# The seam between HTTP and WebSocket


def test_frames_in_the_segment_of_the_request_are_read_after_the_101(server: LocalServer) -> None:
    """H25."""
    with Client(server.port) as client:
        client.upgrade(UPGRADE + SUBSCRIBE + frame(PING, b"x"))
        client.expect(SUBSCRIBED)
        assert client.read_frame() == (PONG, b"x")


@pytest.mark.parametrize("cut", range(1, len(SUBSCRIBE), 5))
def test_half_a_frame_in_the_segment_of_the_request_is_kept(server: LocalServer, cut: int) -> None:
    """H25."""
    with Client(server.port) as client:
        client.upgrade(UPGRADE + SUBSCRIBE[:cut])
        client.send(SUBSCRIBE[cut:])
        client.expect(SUBSCRIBED)


def test_a_request_pipelined_behind_the_upgrade_is_no_frame(server: LocalServer) -> None:
    """H26: behind the 101 there are frames only."""
    with Client(server.port) as client:
        client.upgrade(UPGRADE + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_end() == (1002, "reserved bit set")


def test_the_101_comes_behind_the_answers_to_earlier_requests(server: LocalServer) -> None:
    """The HTTP answer still waits in the transport when the WebSocket begins to write to the socket itself."""
    with Client(server.port) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3 + UPGRADE + SUBSCRIBE)
        for _ in range(3):
            assert client.read_until(b"\r\n").startswith(b"HTTP/1.1 200 ")
            client.read_until(b'{"status":"ok"}')
        assert client.read_until(b"\r\n").lstrip().startswith(b"HTTP/1.1 101 ")
        client.read_until(b"\r\n\r\n")
        client.expect(SUBSCRIBED)


# Closing: the peer begins


@pytest.mark.parametrize("code", VALID_CODES)
def test_the_code_of_the_peers_close_frame_is_echoed(server: LocalServer, code: int) -> None:
    """F24."""
    with server.connect("s") as client:
        client.send(close_frame(code, "auf Wiedersehen ✓".encode()))
        assert client.read_end() == (code, "")
        assert server.call(server.server.hub.subscribers, "s") == 0


def test_an_empty_close_frame_is_answered_with_an_empty_one(server: LocalServer) -> None:
    with server.connect() as client:
        client.send(frame(CLOSE, b""))
        assert client.read_end() == (1005, "")


def test_a_close_reason_of_123_bytes_is_legal(server: LocalServer) -> None:
    """F25."""
    with server.connect() as client:
        client.send(close_frame(1000, b"x" * 123))
        assert client.read_end() == (1000, "")


@pytest.mark.parametrize(
    "data",
    [close_frame(1001), frame(PING, b"x"), SUBSCRIBE, b"\xff\xff\xff\xff", frame(BINARY, b"x"), SUBSCRIBE[:3]],
    ids=["close", "ping", "text", "nonsense", "binary", "half-a-frame"],
)
@pytest.mark.parametrize("together", [True, False], ids=["in-one-segment", "later"])
def test_what_comes_behind_a_close_frame_is_ignored(server: LocalServer, data: bytes, together: bool) -> None:
    """F26: it is answered once, and with nothing else."""
    with server.connect() as client:
        if together:
            client.send(close_frame(1000) + data)
        else:
            client.send(close_frame(1000))
            client.send(data)
        assert client.read_end() == (1000, "")


def test_a_close_frame_in_the_middle_of_a_message_closes(server: LocalServer) -> None:
    """F26."""
    with server.connect() as client:
        client.send(frame(TEXT, b"{", fin=False) + close_frame(1000) + frame(CONTINUATION, b"}"))
        assert client.read_end() == (1000, "")


def test_commands_before_the_close_frame_are_answered(server: LocalServer) -> None:
    with server.connect() as client:
        client.send(SUBSCRIBE + close_frame(1000))
        client.expect(SUBSCRIBED)
        assert client.read_end() == (1000, "")


# Closing: the server begins


@pytest.mark.parametrize("code", VALID_CODES)
def test_a_close_of_ours_ends_with_the_peers_answer(server: LocalServer, code: int) -> None:
    with server.connect("s") as client:
        server.call(server.connection().close, code, "because")
        assert client.read_close() == (code, "because")
        assert server.call(server.server.hub.subscribers, "s") == 0
        client.send(close_frame(code))
        client.read_eof()


@pytest.mark.parametrize(
    ("reason", "sent"),
    [("x" * 123, "x" * 123), ("x" * 124, "x" * 123), ("ä" * 62, "ä" * 61), ("x🌭" * 30, "x🌭" * 24 + "x")],
    ids=["123", "124", "two-byte-characters", "four-byte-characters"],
)
def test_a_long_reason_is_cut_at_a_character(server: LocalServer, reason: str, sent: str) -> None:
    """F32."""
    with server.connect() as client:
        server.call(server.connection().close, 4000, reason)
        assert client.read_close() == (4000, sent)


def test_after_our_close_frame_nothing_is_answered(server: LocalServer) -> None:
    with server.connect("s") as client:
        connection = server.connection()
        server.call(connection.close, 1001)
        server.call(connection.close, 1008, "a second time")
        server.call(connection.answer, b"{}")
        client.send(SUBSCRIBE + frame(PING, b"x") + fragments(b'{"type":', b'"x"}') + close_frame(1001))
        assert client.read_end() == (1001, "")


def test_both_may_begin_to_close_at_once(server: LocalServer) -> None:
    with server.connect() as client:
        client.send(close_frame(4001))
        server.call(close_everybody, server)
        assert client.read_end()[0] in (1001, 4001)


def close_everybody(server: LocalServer) -> None:
    for connection in server.server.cable.everybody():
        connection.close(1001)


@pytest.mark.parametrize("data", [frame(BINARY, b""), b"\xff\xff", frame(CLOSE, b"x")], ids=["binary", "rsv", "close"])
def test_a_violation_after_our_close_frame_only_ends_the_connection(server: LocalServer, data: bytes) -> None:
    with server.connect() as client:
        server.call(server.connection().close, 1001)
        client.send(data)
        assert client.read_end() == (1001, "")


def test_messages_posted_before_our_close_come_before_the_close_frame(server: LocalServer) -> None:
    with server.connect("s") as client:
        connection = server.connection()

        def publish_and_close() -> None:
            for number in range(3):
                server.server.hub.publish("s", b"%d" % number)
            connection.close(4000)
            server.server.hub.publish("s", b"3")

        server.call(publish_and_close)
        client.expect(*({"type": "message", "stream": "s", "data": number} for number in range(3)))
        assert client.read_close() == (4000, "")


# Deadlines of the end


def fixed_clock(server: LocalServer) -> None:
    server.call(setattr, server.server.cable, "clock", lambda: 1000.0)


def test_a_peer_that_does_not_answer_our_close_is_cut_off_after_close_timeout(serve: Serve) -> None:
    """F27."""
    server = serve(ticking=False, close_timeout=5)
    fixed_clock(server)
    with server.connect() as client:
        server.call(server.connection().close, 1001)
        assert client.read_close() == (1001, "")
        client.send(SUBSCRIBE + frame(PING, b"") * 10)  # gives it no second more
        server.expire(1004.999)
        assert server.server.cable.connections == 1
        server.expire(1005)
        client.read_cut()
        server.wait_for_connections(0)


def test_close_timeout_0_waits_for_ever(serve: Serve) -> None:
    server = serve(ticking=False, close_timeout=0)
    fixed_clock(server)
    with server.connect() as client:
        server.call(server.connection().close, 1001)
        assert client.read_close() == (1001, "")
        server.expire(1e9)
        assert server.server.cable.connections == 1
        client.send(close_frame(1001))
        client.read_eof()


@pytest.mark.parametrize("begin", [frame(BINARY, b""), close_frame(1000)], ids=["violation", "close"])
def test_a_peer_that_does_not_hang_up_is_cut_off_after_two_seconds(server: LocalServer, begin: bytes) -> None:
    fixed_clock(server)
    with server.connect() as client:
        client.send(begin)
        client.read_end()
        client.send(b"still here")
        server.expire(1001.999)
        assert server.server.cable.connections == 1
        server.expire(1002)
        server.wait_for_connections(0)


# Vanishing


def _nothing(client: Client) -> None:
    pass


def _begin_request(client: Client) -> None:
    client.send(UPGRADE[:60])


def _send_request(client: Client) -> None:
    client.send(UPGRADE)


def _upgrade(client: Client) -> None:
    client.upgrade()


def _subscribe(client: Client) -> None:
    client.upgrade()
    client.subscribe("s")


def _begin_header(client: Client) -> None:
    client.upgrade(UPGRADE + SUBSCRIBE[:1])


def _begin_payload(client: Client) -> None:
    client.upgrade(UPGRADE + SUBSCRIBE[:15])


def _begin_message(client: Client) -> None:
    client.upgrade()
    client.send(frame(TEXT, b"{", fin=False))


def _send_unread(client: Client) -> None:
    client.upgrade()
    client.send(SUBSCRIBE + frame(PING, b"x") * 100)


def _violate(client: Client) -> None:
    client.upgrade(UPGRADE + frame(BINARY, b""))


def _violate_and_read(client: Client) -> None:
    client.upgrade(UPGRADE + frame(BINARY, b""))
    client.read_end()


def _close(client: Client) -> None:
    client.upgrade(UPGRADE + close_frame(1000))


STAGES: list[Callable[[Client], None]] = [
    _nothing, _begin_request, _send_request, _upgrade, _subscribe, _begin_header, _begin_payload, _begin_message,
    _send_unread, _violate, _violate_and_read, _close,
]


@pytest.mark.parametrize("hang_up", [Client.close, Client.reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__.strip("_"))
def test_a_peer_may_vanish_at_any_time(
    server: LocalServer, stage: Callable[[Client], None], hang_up: Callable[[Client], None]
) -> None:
    """F28, H24: nothing is left of it, and nothing is logged."""
    before = alive_connections()
    client = Client(server.port)
    stage(client)
    hang_up(client)
    with server.connect("s") as other:
        server.wait_for_connections(1)
        server.publish("s", 1)
        other.expect({"type": "message", "stream": "s", "data": 1})
        assert server.call(server.server.hub.subscribers, "s") == 1
        assert server.call(alive_connections) == before + 1
    server.wait_until(lambda: alive_connections() == before)


@pytest.mark.parametrize("hang_up", [Client.close, Client.reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("ours", ["nothing", "close", "fail"])
def test_a_peer_may_vanish_while_it_does_not_read(
    server: LocalServer, hang_up: Callable[[Client], None], ours: str
) -> None:
    before = alive_connections()
    client = server.connect("s", receive_buffer=4096)
    server.stall("s")
    connection = server.connection()
    if ours == "close":
        server.call(connection.close, 1001)
    elif ours == "fail":
        server.call(connection.fail, 1002, "")
    server.publish("s", 1)
    hang_up(client)
    del connection
    server.wait_for_connections(0)
    server.wait_until(lambda: alive_connections() == before)
    assert server.call(lambda: dict(server.server.cable.blocked)) == {}
    assert server.call(lambda: dict(server.server.hub.streams)) == {}


@pytest.mark.parametrize("hang_up", [Client.close, Client.reset], ids=["FIN", "RST"])
def test_a_peer_may_vanish_after_our_close(server: LocalServer, hang_up: Callable[[Client], None]) -> None:
    before = alive_connections()
    client = server.connect("s")
    server.call(server.connection().close, 1001)
    hang_up(client)
    server.wait_for_connections(0)
    server.wait_until(lambda: alive_connections() == before)


def test_a_peer_that_only_stops_sending_gets_its_answers(server: LocalServer) -> None:
    """A half-closed connection is of no use to WebSocket, but what was asked before is answered."""
    with server.connect() as client:
        client.send(SUBSCRIBE)
        client.socket.shutdown(1)
        client.expect(SUBSCRIBED)
        client.read_eof()


# Not reading


def test_of_a_flood_of_pings_only_the_last_is_owed_to_a_peer_that_does_not_read(server: LocalServer) -> None:
    """F29 (RFC 6455 §5.5.3)."""
    with server.connect("s", receive_buffer=4096) as client:
        server.stall("s")
        client.send(b"".join(frame(PING, b"%d" % index) for index in range(10_000)) + SUBSCRIBE)
        outbox = server.connection().outbox
        assert outbox is not None
        server.wait_until(lambda: outbox.frames)
        assert server.call(lambda: (outbox.frames, outbox.messages)) == (1, 0)
        assert client.receive()["data"][:1] == "x"
        client.expect(SUBSCRIBED)
        assert client.read_frame() == (PONG, b"9999")
        client.send_frame(PING, b"again")
        assert client.read_frame() == (PONG, b"again")


def test_pongs_that_fill_the_socket_are_a_bounded_queue(server: LocalServer) -> None:
    """F29: what the kernel took, one that the transport holds, and the latest."""
    count = 8_000
    with server.connect(receive_buffer=4096) as client:
        client.send(b"".join(frame(PING, b"%125d" % index) for index in range(count)) + SUBSCRIBE)
        server.wait_until(lambda: server.server.hub.subscribers("s"))
        outbox = server.connection().outbox
        assert outbox is not None
        assert server.call(lambda: outbox.frames) <= 1
        pongs: list[int] = []
        others: list[object] = []
        while not pongs or pongs[-1] != count - 1:
            opcode, payload = client.read_frame()
            if opcode == PONG:
                pongs.append(int(payload))
            else:
                others.append(json.loads(payload))
        assert others == [SUBSCRIBED]
        assert pongs[:-1] == list(range(len(pongs) - 1))
        assert len(pongs) < count


@pytest.mark.parametrize("limit", [1, 2, 256])
def test_who_lets_answers_pile_up_is_not_read_but_gets_every_one(serve: Serve, limit: int) -> None:
    server = serve(ticking=False, max_subscriptions=0, max_pending_messages=limit)
    streams = [f"{index}".rjust(200, ".") for index in range(5_000)]
    commands = b"".join(
        frame(TEXT, b'{"type":"subscribe","stream":"%b"}' % stream.encode()) for stream in streams)
    with server.connect(receive_buffer=4096) as client:
        sender = threading.Thread(target=client.send, args=(commands,))
        sender.start()
        connection = server.connection()
        transport = connection.transport
        assert transport is not None
        server.wait_until(
            lambda: connection.outbox and connection.outbox.frames >= limit and not transport.is_reading())
        outbox = connection.outbox
        assert outbox is not None
        assert server.call(lambda: outbox.frames) == limit
        assert server.call(lambda: len(server.server.hub.streams)) < len(streams)
        client.expect(*({"type": "subscribed", "stream": stream} for stream in streams))
        sender.join()
        assert server.call(lambda: len(server.server.hub.streams)) == len(streams)
        server.wait_until(lambda: transport.is_reading() and connection.outbox is None)


@pytest.mark.parametrize("limit", [1, 10_000])
def test_who_lets_bytes_of_answers_pile_up_is_not_read_either(serve: Serve, limit: int) -> None:
    server = serve(ticking=False, max_pending_messages=0, max_pending_bytes=limit, max_errors=0)
    count = 20_000
    with server.connect(receive_buffer=4096) as client:
        sender = threading.Thread(target=client.send, args=(frame(TEXT, b"?") * count,))
        sender.start()
        connection = server.connection()
        transport = connection.transport
        assert transport is not None
        server.wait_until(
            lambda: connection.outbox and connection.outbox.size >= limit and not transport.is_reading())
        outbox = connection.outbox
        assert outbox is not None
        assert limit <= server.call(lambda: outbox.size) < limit + 60
        client.expect(*[{"type": "error", "reason": "not valid JSON"}] * count)
        sender.join()


def test_messages_do_not_stop_the_reading_of_a_slow_peer(serve: Serve) -> None:
    """Its pongs are what keeps it alive."""
    server = serve(ticking=False, max_pending_messages=1)
    with server.connect("s", receive_buffer=4096) as client:
        server.stall("s")
        for _ in range(10):
            server.publish("s", 1)
        client.command(type="unsubscribe", stream="s")
        server.wait_until(lambda: not server.server.hub.streams)


def test_a_slow_peer_gets_our_close_frame_behind_what_waited(server: LocalServer) -> None:
    with server.connect("s", receive_buffer=4096) as client:
        server.stall("s")
        server.publish("s", 1)
        server.call(server.connection().close, 4000, "bye")
        assert client.receive()["data"][:1] == "x"
        client.expect({"type": "message", "stream": "s", "data": 1})
        assert client.read_close() == (4000, "bye")
        client.send(close_frame(4000))
        client.read_eof()


def test_a_slow_peer_gets_the_close_frame_for_its_violation_at_once(server: LocalServer) -> None:
    """Only what the transport holds already stands before it (RFC 6455 §7.1.7)."""
    with server.connect("s", receive_buffer=4096) as client:
        server.stall("s")
        server.publish("s", 1)
        client.send(frame(BINARY, b""))
        server.wait_until(lambda: not server.server.hub.streams)
        assert client.receive()["data"][:1] == "x"
        assert client.read_end() == (1003, "text frames only")
        assert server.call(lambda: server.server.hub.counters.drops) == 1


def test_a_slow_peer_that_was_not_read_any_more_can_still_be_failed(serve: Serve) -> None:
    server = serve(ticking=False, max_pending_messages=1)
    with server.connect("s", receive_buffer=4096) as client:
        server.stall("s")
        client.send(SUBSCRIBE * 3)
        connection = server.connection()
        transport = connection.transport
        assert transport is not None
        server.wait_until(lambda: not transport.is_reading())
        server.call(connection.fail, 1011, "")
        assert server.call(transport.is_reading)
        assert client.receive()["data"][:1] == "x"
        assert client.read_end() == (1011, "")


# Our own mistakes


def test_an_exception_closes_only_the_connection_that_met_it(
    server: LocalServer, caplog: pytest.LogCaptureFixture
) -> None:
    """R12."""

    class FailingDialect(SimpleDialect):
        def received(self, subscriber: Subscriber, text: bytes) -> None:
            if text == b"bomb":
                raise KeyError("bomb")
            super().received(subscriber, text)

    server.server.site.dialect = FailingDialect(server.server.hub, WebSocketGroup, 32)
    with server.connect("s") as client, server.connect("s") as other:
        client.send(frame(PING, b"1") + frame(TEXT, b"bomb") + frame(PING, b"2"))
        assert client.read_frame() == (PONG, b"1")
        assert client.read_end() == (1011, "internal error")
        server.publish("s", 1)
        other.expect({"type": "message", "stream": "s", "data": 1})
        assert server.call(server.server.hub.subscribers, "s") == 1
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "a connection failed")
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError
    caplog.clear()


# Fairness


@pytest.mark.parametrize(("frames", "rests"), [(63, False), (64, False), (65, True), (1000, True)])
def test_a_peer_that_talks_without_pause_gets_its_share_of_a_turn(
    server: LocalServer, frames: int, rests: bool
) -> None:
    pings = b"".join(frame(PING, b"%d" % index) for index in range(frames))
    with server.connect() as client:
        connection = server.connection()
        transport = connection.transport
        assert transport is not None

        def feed() -> bool:
            connection(pings)  # type: ignore[operator]  # as the transport does
            return not transport.is_reading()

        assert server.call(feed) is rests
        for index in range(frames):
            assert client.read_frame() == (PONG, b"%d" % index)
        server.wait_until(transport.is_reading)
        client.send_frame(PING, b"again")
        assert client.read_frame() == (PONG, b"again")


def test_what_ends_a_connection_counts_behind_a_rest(server: LocalServer) -> None:
    with server.connect() as client:
        client.send(frame(PONG, b"") * 200 + frame(BINARY, b"") + frame(PING, b"") * 200)
        assert client.read_close() == (1003, "text frames only")
        client.read_eof()


def test_who_is_cut_off_while_resting_is_gone(server: LocalServer) -> None:
    with server.connect() as client:
        connection = server.connection()

        def feed_and_abort() -> None:
            connection(frame(PONG, b"") * 200)  # type: ignore[operator]
            connection.abort()

        server.call(feed_and_abort)
        server.wait_for_connections(0)
        client.read_eof()


# Who is not read


def test_messages_that_wait_do_not_keep_commands_from_being_read(serve: Serve) -> None:
    """Only answers that pile up do: a slow reader of a busy stream can still leave it."""
    server = serve(ticking=False, max_pending_messages=4)
    with server.connect("busy", receive_buffer=4096) as client:
        server.stall("busy")
        for number in range(10):
            server.publish("busy", number)
        client.command(type="subscribe", stream="other")
        client.unsubscribe("busy")
        hub = server.server.hub
        server.wait_until(lambda: hub.subscribers("other") and not hub.subscribers("busy"))


def test_reading_goes_on_when_half_of_the_answers_are_gone(serve: Serve) -> None:
    server = serve(ticking=False, max_pending_messages=100, send_buffer=4096)
    with server.connect("busy", receive_buffer=4096) as client:
        server.stall("busy")
        connection = server.connection()
        transport = connection.transport
        assert transport is not None
        name = "n" * 250  # an answer of more than the socket's buffers take at once
        for _ in range(150):
            client.command(type="subscribe", stream=name)
        server.wait_until(lambda: not transport.is_reading())
        outbox = connection.outbox
        assert outbox is not None
        assert server.call(lambda: outbox.frames - outbox.messages) == 100
        while not server.call(transport.is_reading):
            client.read_frame()
        assert server.call(lambda: connection.outbox is outbox)  # still blocked, and read all the same


def test_who_is_cut_off_while_blocked_leaves_nothing_to_the_kernel(serve: Serve) -> None:
    """A reset: after a FIN the kernel would keep what the peer did not take."""
    server = serve(ticking=False)
    with server.connect("busy", receive_buffer=4096) as client:
        server.stall("busy")
        server.call(server.connection().close, 1001)
        server.expire(server.loop.time() + server.settings.close_timeout)
        server.wait_for_connections(0)
        with pytest.raises(ConnectionResetError):
            list(iter(client.read_frame, None))
