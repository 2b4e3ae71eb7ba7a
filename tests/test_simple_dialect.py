"""The wire protocol of part 1 of the contract: commands in, answers out, byte for byte."""

from __future__ import annotations

import json
from typing import cast

import orjson
import pytest

from fastcable._fanout import WebSocketGroup
from fastcable._hub import Hub, Subscriber
from fastcable.dialects._simple import KEY, SimpleDialect
from tests.harness import CLOSE, TEXT, LocalServer, Serve, frame, post

SUBSCRIBE = b'{"type":"subscribe","stream":"s"}'
SUBSCRIBED = b'{"type":"subscribed","stream":"s"}'
NOT_JSON = b'{"type":"error","reason":"not valid JSON"}'
NOT_AN_OBJECT = b'{"type":"error","reason":"a command must be a JSON object"}'
UNKNOWN_TYPE = b'{"type":"error","reason":"type must be \\"subscribe\\", \\"unsubscribe\\", \\"hello\\" or \\"pong\\""}'


class Peer(Subscriber):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.closed: list[tuple[int, str]] = []

    def answer(self, text: bytes) -> None:
        self.answers.append(text)

    def close(self, code: int, reason: str = "") -> None:
        self.closed.append((code, reason))


class RecordingHub:
    """Keeps who wanted what; confirms at once, or refuses when `full`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.full = False
        self.dialect = SimpleDialect(cast(Hub, self), WebSocketGroup, 32)

    def subscribe(self, subscriber: Subscriber, name: str, key: object) -> bool:
        assert key == KEY
        self.calls.append(("subscribe", name))
        if not self.full:
            self.dialect.confirmed(subscriber, name, key)
        return not self.full

    def socket_id(self, subscriber: Subscriber) -> str:
        return "id-1"

    def unsubscribe(self, subscriber: Subscriber, name: str, key: object) -> None:
        assert key == KEY
        self.calls.append(("unsubscribe", name))


@pytest.fixture
def hub() -> RecordingHub:
    return RecordingHub()


@pytest.fixture
def dialect(hub: RecordingHub) -> SimpleDialect:
    return hub.dialect


@pytest.fixture
def peer() -> Peer:
    return Peer()


def dialect_with(max_errors: int) -> SimpleDialect:
    return SimpleDialect(cast(Hub, RecordingHub()), WebSocketGroup, max_errors)


# What the server says

NAMES = {
    "plain": "s", "space": " a b ", "quotes": 'a"b\\c/d', "umlaut": "Zürich", "emoji": "🌭", "html": "</script>&",
    "P10-patterns": "*>.:?[a-z]{x}", "line-separator": "a\u2028b\u2029", "c1-control": "\x80\x9f", "bom": "\ufeffs",
    "noncharacter": "\uffff\U0010ffff", "digits": "0", "the-word-null": "null", "longest": "n" * 255,
}
each_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())


def quoted(name: str) -> bytes:
    return json.dumps(name, ensure_ascii=False).encode()


@each_name
def test_every_frame_names_the_stream_in_the_same_way(dialect: SimpleDialect, peer: Peer, name: str) -> None:
    dialect.confirmed(peer, name, KEY)
    assert peer.answers == [b'{"type":"subscribed","stream":' + quoted(name) + b"}"]
    assert dialect.gap(name, KEY, 7) == b'{"type":"gap","stream":' + quoted(name) + b',"missed":7}'
    group = cast(WebSocketGroup, dialect.open_group(name, KEY))
    assert (group.before, group.after) == (b'{"type":"message","stream":' + quoted(name) + b',"data":', b"}")


def test_the_ping_is_the_one_of_the_contract(dialect: SimpleDialect) -> None:
    assert dialect.ping == b'{"type":"ping"}'


def test_nothing_is_said_when_a_connection_opens(dialect: SimpleDialect, peer: Peer) -> None:
    dialect.opened(peer)
    assert peer.answers == []


# Commands


@each_name
def test_names_are_taken_as_they_are(hub: RecordingHub, peer: Peer, name: str) -> None:
    """Neither trimmed nor normalised."""
    hub.dialect.received(peer, b'{"type":"subscribe","stream":' + quoted(name) + b"}")
    hub.dialect.received(peer, b'{"type":"unsubscribe","stream":' + json.dumps(name).encode() + b"}")
    assert hub.calls == [("subscribe", name), ("unsubscribe", name)]
    assert peer.answers == [b'{"type":"subscribed","stream":' + quoted(name) + b"}"]


@pytest.mark.parametrize(
    "text",
    [
        b'{"stream":"s","type":"subscribe"}',
        b' {\n\t"type" : "subscribe" ,\r\n"stream":"s"} ',
        b'{"type":"subscribe","stream":"s","token":"x","data":{"deep":[[[1.5e300]]]}}',
        b'{"type":"sub\\u0073cribe","stream":"\\u0073"}',
        b'{"type":"pong","stream":"x","type":"subscribe","stream":"s"}',
    ],
    ids=["order", "white-space", "unknown-keys", "escapes", "P5-the-last-of-two-equal-keys-counts"],
)
def test_a_command_may_be_written_in_many_ways(hub: RecordingHub, peer: Peer, text: bytes) -> None:
    hub.dialect.received(peer, text)
    assert hub.calls == [("subscribe", "s")]
    assert peer.answers == [SUBSCRIBED]


@pytest.mark.parametrize(
    "text", [b'{"type":"pong"}', b'{"type":"pong","stream":5}', b'{"type":"unsubscribe","stream":"s"}'])
def test_pong_and_unsubscribe_are_not_answered(dialect: SimpleDialect, peer: Peer, text: bytes) -> None:
    """P16: nor is unsubscribing from what one has not subscribed to."""
    dialect.received(peer, text)
    assert peer.answers == []


def test_hello_is_answered_with_the_socket_id(hub: RecordingHub, peer: Peer) -> None:
    hub.dialect.received(peer, b'{"type":"hello"}')
    hub.dialect.received(peer, b'{"type":"hello","socket":"not for you to say","stream":5}')
    assert peer.answers == [b'{"type":"hello","socket":"id-1"}'] * 2
    assert (hub.calls, peer.errors) == ([], 0)


@pytest.mark.parametrize("size", [319, 320, 321, 5000])
def test_what_is_remembered_and_what_is_not_mean_the_same(hub: RecordingHub, peer: Peer, size: int) -> None:
    padding = b"x" * (size - len(b'{"type":"subscribe","stream":"s","x":""}'))
    for _ in range(3):
        hub.dialect.received(peer, b'{"type":"subscribe","stream":"s","x":"%b"}' % padding)
        hub.dialect.received(peer, b'{"type":"unsubscribe","stream":"s","x":"%b"' % padding)
    assert hub.calls == [("subscribe", "s")] * 3
    assert peer.answers == [SUBSCRIBED, NOT_JSON] * 3


BAD_COMMANDS = {
    "P1-empty": (b"", NOT_JSON),
    "P1-words": (b"hello", NOT_JSON),
    "P1-single-quotes": (b"{'type':'pong'}", NOT_JSON),
    "P1-string": (b'"subscribe"', NOT_AN_OBJECT),
    "P1-number": (b"1", NOT_AN_OBJECT),
    "P1-null": (b"null", NOT_AN_OBJECT),
    "P1-true": (b"true", NOT_AN_OBJECT),
    "P1-array": (b'[{"type":"pong"}]', NOT_AN_OBJECT),
    "P1-unclosed": (b'{"type":"pong"', NOT_JSON),
    "P2-deep-arrays": (b"[" * 100_000 + b"]" * 100_000, NOT_JSON),
    "P2-deep-objects": (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, NOT_JSON),
    "P2-deep-and-unclosed": (b"[" * 131_072, NOT_JSON),
    "P3-nan": (b'{"type":"pong","x":NaN}', NOT_JSON),
    "P3-infinity": (b'{"type":"pong","x":Infinity}', NOT_JSON),
    "P3-minus-infinity": (b'{"type":"pong","x":-Infinity}', NOT_JSON),
    "P6-lone-surrogate": (b'{"type":"subscribe","stream":"\\ud800"}', NOT_JSON),
    "P6-reversed-surrogates": (b'{"type":"subscribe","stream":"\\udc00\\ud800"}', NOT_JSON),
    "P7-bom": (b'\xef\xbb\xbf{"type":"pong"}', NOT_JSON),
    "P7-trailing": (b'{"type":"pong"} x', NOT_JSON),
    "P7-two-documents": (b'{"type":"pong"}{"type":"pong"}', NOT_JSON),
    "P7-two-lines": (b'{"type":"pong"}\n{"type":"pong"}', NOT_JSON),
    "P7-comment": (b'{"type":"pong"/**/}', NOT_JSON),
    "P7-trailing-comma": (b'{"type":"pong",}', NOT_JSON),
    "P7-nul": (b'{"type":"pong"}\0', NOT_JSON),
    "P18-no-type": (b"{}", UNKNOWN_TYPE),
    "P18-null": (b'{"type":null}', UNKNOWN_TYPE),
    "P18-list": (b'{"type":["subscribe"]}', UNKNOWN_TYPE),
    "P18-object": (b'{"type":{}}', UNKNOWN_TYPE),
    "P18-number": (b'{"type":1}', UNKNOWN_TYPE),
    "P18-case": (b'{"type":"Subscribe"}', UNKNOWN_TYPE),
    "P18-space": (b'{"type":"subscribe "}', UNKNOWN_TYPE),
    "P18-welcome": (b'{"type":"welcome"}', UNKNOWN_TYPE),
    "P18-ping": (b'{"type":"ping"}', UNKNOWN_TYPE),
    "P18-action-cable": (b'{"command":"subscribe","identifier":"{}"}', UNKNOWN_TYPE),
    "P18-bad-stream-of-unknown-type": (
        b'{"type":"x","stream":"\\n"}', UNKNOWN_TYPE.replace(b'"reason"', b'"stream":"\\n","reason"')),
    "P18-list-as-stream-of-unknown-type": (b'{"type":"x","stream":["s"]}', UNKNOWN_TYPE),
    "P18-stream-of-unknown-type": (
        b'{"type":"message","stream":"s\\"","data":1}',
        UNKNOWN_TYPE.replace(b'"reason"', b'"stream":"s\\"","reason"')),
    "P18-no-stream": (b'{"type":"subscribe"}', b"must be a string"),
    **{
        f"P8-stream-{value.decode()}": (b'{"type":"subscribe","stream":%b}' % value, b"must be a string")
        for value in (b"null", b"5", b"1.5", b"true", b"[]", b'["s"]', b"{}")
    },
    "P8-unsubscribe-from-a-list": (b'{"type":"unsubscribe","stream":["s"]}', b"must be a string"),
    "P9-empty-name": (b'{"type":"subscribe","stream":""}', b"must not be empty"),
    "P9-256-bytes": (b'{"type":"subscribe","stream":"%b"}' % (b"x" * 256), b"must be at most 255 bytes of UTF-8"),
    "P9-128-umlauts": (
        b'{"type":"subscribe","stream":"%b"}' % ("ü" * 128).encode(), b"must be at most 255 bytes of UTF-8"),
    "P9-100-KB": (b'{"type":"subscribe","stream":"%b"}' % (b"x" * 100_000), b"must be at most 255 bytes of UTF-8"),
    "P10-nul": (b'{"type":"subscribe","stream":"a\\u0000"}', b"must not contain control characters"),
    "P10-line-feed": (b'{"type":"subscribe","stream":"a\\nb"}', b"must not contain control characters"),
    "P10-unit-separator": (b'{"type":"subscribe","stream":"\\u001f"}', b"must not contain control characters"),
    "P10-delete": (b'{"type":"unsubscribe","stream":"\\u007f"}', b"must not contain control characters"),
}
each_bad_command = pytest.mark.parametrize(("text", "answer"), BAD_COMMANDS.values(), ids=BAD_COMMANDS.keys())


@each_bad_command
def test_a_bad_command_is_answered_with_an_error_and_is_a_strike(
    hub: RecordingHub, peer: Peer, text: bytes, answer: bytes
) -> None:
    if not answer.startswith(b"{"):
        name = json.loads(text).get("stream")
        repeated = b'"stream":%b,' % orjson.dumps(name) if type(name) is str and 0 < len(name) <= 4096 else b""
        answer = b'{"type":"error",%b"reason":"stream %b"}' % (repeated, answer)
    hub.dialect.received(peer, text)
    assert peer.answers == [answer]
    assert peer.errors == 1
    assert hub.calls == []
    assert peer.closed == []


@pytest.mark.parametrize("number", [b"9" * 100_000, b"1e400", b"-0", b"1" + b"0" * 400, b"0." + b"3" * 100_000])
def test_no_number_does_harm(dialect: SimpleDialect, peer: Peer, number: bytes) -> None:
    """P4: taken or refused, but in no case an exception."""
    dialect.received(peer, b'{"type":"pong","x":%b}' % number)
    dialect.received(peer, b'{"type":"subscribe","stream":%b}' % number)
    assert all(answer.startswith(b'{"type":"error",') for answer in peer.answers)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("x" * 254, True), ("x" * 255, True), ("x" * 256, False), ("ü" * 127, True), ("ü" * 127 + "x", True),
        ("ü" * 128, False), ("🌭" * 63 + "xxx", True), ("🌭" * 64, False),
    ],
    ids=["254", "255", "256", "254-in-umlauts", "255-with-umlauts", "256-in-umlauts", "255-with-emoji", "256-in-emoji"],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_names_are_measured_in_bytes_after_decoding(
    hub: RecordingHub, peer: Peer, name: str, good: bool, escaped: bool
) -> None:
    """P9."""
    hub.dialect.received(peer, json.dumps({"type": "subscribe", "stream": name}, ensure_ascii=escaped).encode())
    assert hub.calls == ([("subscribe", name)] if good else [])


@pytest.mark.parametrize(
    ("name", "repeated"),
    [
        ("x" * 256, True), ("x" * 4095, True), ("x" * 4096, True), ("x" * 4097, False), ("ü" * 2048, True),
        ("ü" * 2048 + "x", False), ("\0" * 4096, True), ("\0" * 4097, False), ("", False),
    ],
    ids=["256", "4095", "4096", "4097", "4096-in-umlauts", "4097-with-umlauts", "4096-NUL", "4097-NUL", "empty"],
)
@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe", "nonsense"])
def test_an_error_repeats_a_bad_name_of_at_most_4096_bytes(
    dialect: SimpleDialect, peer: Peer, name: str, repeated: bool, verb: str
) -> None:
    dialect.received(peer, json.dumps({"type": verb, "stream": name}).encode())
    (answer,) = map(json.loads, peer.answers)
    assert list(answer) == (["type", "stream", "reason"] if repeated else ["type", "reason"])
    assert answer.get("stream", name) == name


# Strikes


@pytest.mark.parametrize("max_errors", [1, 2, 32, 70_000])
def test_more_than_max_errors_in_a_row_close_with_1008(max_errors: int) -> None:
    dialect, peer = dialect_with(max_errors), Peer()
    for _ in range(max_errors):
        dialect.received(peer, b"?")
    assert peer.closed == []
    dialect.received(peer, b"?")
    assert peer.closed == [(1008, "too many bad commands")]
    assert peer.answers == [NOT_JSON] * (max_errors + 1)


@pytest.mark.parametrize(
    "good", [SUBSCRIBE, b'{"type":"unsubscribe","stream":"s"}', b'{"type":"hello"}', b'{"type":"pong"}'],
    ids=["subscribe", "unsubscribe", "hello", "pong"],
)
def test_a_good_command_forgives_all_bad_ones(good: bytes) -> None:
    hub = RecordingHub()
    hub.dialect = dialect = SimpleDialect(cast(Hub, hub), WebSocketGroup, 2)
    peer = Peer()
    for _ in range(5):
        dialect.received(peer, b"?")
        dialect.received(peer, b"{}")
        assert peer.errors == 2
        dialect.received(peer, good)
        assert peer.errors == 0
    assert peer.closed == []


def test_max_errors_0_is_no_limit() -> None:
    dialect, peer = dialect_with(0), Peer()
    for _ in range(70_000):
        dialect.received(peer, b"?")
    assert peer.closed == []


def test_too_many_subscriptions_are_refused_but_no_strike(hub: RecordingHub, peer: Peer) -> None:
    hub.full = True
    for _ in range(100):
        hub.dialect.received(peer, b'{"type":"subscribe","stream":"a\\"b"}')
    assert peer.answers == [b'{"type":"error","stream":"a\\"b","reason":"too many subscriptions"}'] * 100
    assert peer.closed == []


# With a real hub, over sockets


@pytest.fixture
def server(serve: Serve) -> LocalServer:
    return serve(ticking=False)


def test_every_frame_of_a_session_byte_for_byte(server: LocalServer) -> None:
    with server.connect() as client:
        client.send_frame(TEXT, SUBSCRIBE)
        assert client.read_frame() == (TEXT, b'{"type":"subscribed","stream":"s"}')
        assert server.post(b'{"stream":"s","data":{"b":1, "a":[ ]}}') == (200, {"subscribers": 1})
        assert client.read_frame() == (TEXT, b'{"type":"message","stream":"s","data":{"b":1, "a":[ ]}}')
        server.call(server.server.heartbeat.beat)  # the phase of the first connection
        assert client.read_frame() == (TEXT, b'{"type":"ping"}')
        client.send_frame(TEXT, b'{"type":"pong"}')
        client.send_frame(TEXT, b'{"type":"unsubscribe","stream":"s"}')
        client.send_frame(TEXT, b"?")
        assert client.read_frame() == (TEXT, b'{"type":"error","reason":"not valid JSON"}')
        client.send_frame(TEXT, b'{"type":"nonsense","stream":"s"}')
        assert client.read_frame() == (TEXT, UNKNOWN_TYPE.replace(b'"reason"', b'"stream":"s","reason"'))
        assert server.post(b'{"stream":"s","data":1}') == (200, {"subscribers": 0})


DATA = {
    "null": b"null", "string": '"Grüße 🌭"'.encode(), "escapes": b'"\\u0041\\/\\ud83c\\udf2d"',
    "float": b"1.0000000000000000000001",
    "P4-large-integer": b"9" * 308, "P4-exponent": b"1E+308", "minus-zero": b"-0.0", "P5-equal-keys": b'{"a":1,"a":2}',
    "white-space": b'{ "a" :\n[ 1 , 2 ] }', "P2-deep": b"[" * 1000 + b"]" * 1000, "html": b'"</script>\xe2\x80\xa8"',
    "125-byte-frame": b'"' + b"x" * (125 - 41) + b'"', "126-byte-frame": b'"' + b"x" * (126 - 41) + b'"',
    "65535-byte-frame": b'"' + b"x" * (65535 - 41) + b'"', "65536-byte-frame": b'"' + b"x" * (65536 - 41) + b'"',
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA.keys())
def test_data_arrives_byte_for_byte(server: LocalServer, data: bytes) -> None:
    with server.connect("s") as client:
        assert server.post(b'{"stream": "s" , "data": ' + data + b" }") == (200, {"subscribers": 1})
        assert client.read_frame() == (TEXT, b'{"type":"message","stream":"s","data":' + data + b"}")


def test_a_duplicate_subscription_is_confirmed_again_and_delivered_once(server: LocalServer) -> None:
    """P13."""
    with server.connect("s", "s", "s") as client:
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": 1})
        client.expect({"type": "message", "stream": "s", "data": 1})
        client.unsubscribe("s")
        client.subscribe("other")
        assert server.post({"stream": "s", "data": 2}) == (200, {"subscribers": 0})


@pytest.mark.parametrize(
    ("burst", "subscribed"),
    [("su", 0), ("sus", 1), ("ssu", 0), ("us", 1), ("susu", 0), ("susuususs", 1), ("su" * 500 + "s", 1)],
    ids=lambda value: value[:10] if isinstance(value, str) else "",
)
def test_the_last_command_of_a_burst_wins_and_each_subscribe_is_confirmed(
    server: LocalServer, burst: str, subscribed: int
) -> None:
    """P14, P12."""
    commands = {"s": frame(TEXT, SUBSCRIBE), "u": frame(TEXT, b'{"type":"unsubscribe","stream":"s"}')}
    with server.connect() as client:
        client.send(b"".join(commands[letter] for letter in burst))
        for _ in range(burst.count("s")):
            assert client.read_frame() == (TEXT, SUBSCRIBED)
        client.subscribe("end")
        assert server.post({"stream": "s", "data": 1}) == (200, {"subscribers": subscribed})
        assert set(server.call(lambda: list(server.server.hub.streams))) == ({"end", "s"} if subscribed else {"end"})


def test_who_subscribes_behind_a_broadcast_does_not_get_it(server: LocalServer) -> None:
    """P15: in the same turn of the loop, before anything was sent."""
    hub = server.server.hub
    with server.connect("s") as early, server.connect() as late:
        early_side, late_side = server.call(server.server.cable.oldest, 2)
        if late_side.subscriptions:
            early_side, late_side = late_side, early_side

        def interleave() -> None:
            hub.publish("s", b"1")
            hub.subscribe(late_side, "s", KEY)
            hub.publish("s", b"2")
            hub.unsubscribe(early_side, "s", KEY)
            hub.publish("s", b"3")

        server.call(interleave)
        early.expect(*({"type": "message", "stream": "s", "data": number} for number in (1, 2)))
        late.expect(
            {"type": "subscribed", "stream": "s"},
            *({"type": "message", "stream": "s", "data": number} for number in (2, 3)))


@pytest.mark.parametrize("count", [32, 33])
def test_strikes_close_a_real_connection(server: LocalServer, count: int) -> None:
    with server.connect() as client:
        for _ in range(count):
            client.send_frame(TEXT, b"?")
            assert client.read_frame() == (TEXT, NOT_JSON)
        if count > 32:
            assert client.read_close() == (1008, "too many bad commands")
        else:
            client.subscribe("s")


def test_bad_commands_behind_the_last_straw_are_not_answered(serve: Serve) -> None:
    server = serve(ticking=False, max_errors=2)
    with server.connect() as client:
        client.send(frame(TEXT, b"?") * 10 + frame(CLOSE, b"\x03\xf0"))
        for _ in range(3):
            assert client.read_frame() == (TEXT, NOT_JSON)
        assert client.read_end() == (1008, "too many bad commands")


def test_names_are_not_normalised(server: LocalServer) -> None:
    composed, decomposed = "\u00fc", "u\u0308"
    with server.connect(composed) as client:
        assert post(server.port, {"stream": decomposed, "data": 1}) == (200, {"subscribers": 0})
        assert post(server.port, {"stream": composed + " ", "data": 1}) == (200, {"subscribers": 0})
        assert post(server.port, {"stream": composed, "data": 2}) == (200, {"subscribers": 1})
        client.expect({"type": "message", "stream": composed, "data": 2})
