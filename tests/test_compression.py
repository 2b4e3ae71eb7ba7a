"""Compressed messages from end to end: what peers may send, what subscribers get, and what that costs.

The C and F numbers in the names are those of the project's catalogue of hostile input.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import BrowserContext
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as WebsocketsFrame
from websockets.frames import Opcode as WebsocketsOpcode
from websockets.protocol import SERVER, Protocol
from websockets.sync.client import connect

from fastcable._frames import BINARY, CONTINUATION, DEFLATED, FAILED, PING, TEXT, FrameParser, encode_frame
from fastcable.deflate import SMALLEST, inflate
from tests.harness import PATIENCE, UPGRADE, Client, LocalServer, Serve, Spawn, frame, message, subscribed

JS = Path(__file__).parent / "js"
RSV1 = 4
OFFER = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
AGREED = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
HTML = "".join(f'<li id="message_{i}" class="message"><p class="text">Hello, {i * i}</p></li>' for i in range(40))
RANDOM = random.Random(1)


def deflated(data: bytes, level: int = 9) -> bytes:
    compressor = zlib.compressobj(level, wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def compressed(data: bytes, opcode: int = TEXT) -> bytes:
    return frame(opcode, deflated(data), rsv=RSV1)


def pieces(payload: bytes, size: int, rsv: int = RSV1) -> bytes:
    """A message in fragments."""
    last = max(len(payload) - 1, 0) // size * size
    return b"".join(
        frame(CONTINUATION if i else TEXT, payload[i : i + size], fin=i == last, rsv=0 if i else rsv)
        for i in range(0, last + 1, size))


class Inflating(Client):
    """A client that has negotiated compression, and knows which messages came compressed."""

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self.head = self.upgrade(OFFER)
        self.compressed: list[int] = []
        """The size on the wire of each compressed message."""

    def read_frame(self) -> tuple[int, bytes]:
        while not self._buffer:
            self._fill()
        marked = self._buffer[0] & 0x40
        self._buffer = bytes([self._buffer[0] & ~0x40]) + self._buffer[1:]
        opcode, payload = super().read_frame()
        if marked:
            assert opcode == TEXT
            self.compressed.append(len(payload))
            payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        return opcode, payload


@pytest.fixture
def server(serve: Serve) -> LocalServer:
    return serve(compression=True, ticking=False)


@pytest.fixture
def compressors(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Each that is made."""
    made: list[object] = []

    def count(*arguments: Any) -> object:
        made.append(arguments)
        return zlib.compressobj(*arguments)

    monkeypatch.setattr("fastcable.deflate.compressobj", count)
    return made


# --- the parser -------------------------------------------------------------------------------------------------------


def read(data: bytes, *cuts: int, limit: int = 1000, fragments: int = 0) -> tuple[list[tuple[int, bytes]], object]:
    parser = FrameParser(limit, fragments, binary=True, inflate=inflate)
    events = []
    for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True):
        parser.feed(data[start:stop])
        while (event := parser.next()) > 0:
            events.append((event, parser.payload))
    if parser.next() == FAILED:
        return events, (parser.code, parser.reason)
    return events, "open" if parser.idle else "waiting"


LONG = b"Hello " * 50
CASES = [
    pytest.param(compressed(LONG), [(TEXT, LONG)], "open", id="text"),
    pytest.param(compressed(LONG, BINARY), [(BINARY, LONG)], "open", id="binary"),
    pytest.param(frame(TEXT, b"plain"), [(TEXT, b"plain")], "open", id="not-compressed"),
    pytest.param(frame(TEXT, b"\0", rsv=RSV1), [(TEXT, b"")], "open", id="empty"),
    pytest.param(
        compressed(LONG) + frame(TEXT, b"plain") + compressed(b"x"), [(TEXT, LONG), (TEXT, b"plain"), (TEXT, b"x")],
        "open", id="both-kinds"),
    pytest.param(pieces(deflated(LONG), 3), [(TEXT, LONG)], "open", id="fragments"),
    pytest.param(
        frame(TEXT, b"", fin=False, rsv=RSV1) + frame(CONTINUATION, deflated(LONG)), [(TEXT, LONG)], "open",
        id="empty-fragment-first"),
    pytest.param(
        frame(TEXT, deflated(LONG)[:4], fin=False, rsv=RSV1) + frame(PING, b"\0")
        + frame(CONTINUATION, deflated(LONG)[4:]),
        [(PING, b"\0"), (TEXT, LONG)], "open", id="ping-between-fragments"),
    pytest.param(
        frame(TEXT, b"pl", fin=False) + frame(CONTINUATION, b"ain") + compressed(LONG),
        [(TEXT, b"plain"), (TEXT, LONG)], "open", id="plain-fragments-first"),
    pytest.param(compressed("é".encode() * 20), [(TEXT, "é".encode() * 20)], "open", id="UTF-8"),
    pytest.param(compressed(b"\xff" * 20), [], (1007, "invalid UTF-8"), id="F20-bad-UTF-8"),
    pytest.param(compressed(b"\xff" * 20, BINARY), [(BINARY, b"\xff" * 20)], "open", id="binary-is-no-UTF-8"),
    pytest.param(frame(PING, b"x", rsv=RSV1), [], (1002, "reserved bit set"), id="F4-ping"),
    pytest.param(frame(8, b"", rsv=RSV1), [], (1002, "reserved bit set"), id="F4-close"),
    pytest.param(
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", rsv=RSV1), [], (1002, "reserved bit set"),
        id="F4-continuation"),
    pytest.param(
        frame(TEXT, b"x", fin=False, rsv=RSV1) + frame(CONTINUATION, b"x", rsv=RSV1), [], (1002, "reserved bit set"),
        id="F4-continuation-of-a-compressed-message"),
    pytest.param(frame(TEXT, b"x", rsv=6), [], (1002, "reserved bit set"), id="F3-rsv2-too"),
    pytest.param(frame(TEXT, b"x", rsv=1), [], (1002, "reserved bit set"), id="F3-rsv3"),
    pytest.param(frame(3, b"x", rsv=RSV1), [], (1002, "reserved opcode"), id="F5-reserved-opcode"),
    pytest.param(frame(TEXT, b"garbage", rsv=RSV1), [], (1007, "invalid compressed data"), id="C4-garbage"),
    pytest.param(frame(TEXT, b"", rsv=RSV1), [], (1007, "invalid compressed data"), id="C4-nothing"),
    pytest.param(
        frame(TEXT, deflated(LONG)[:-2], rsv=RSV1), [], (1007, "invalid compressed data"), id="C4-truncated"),
    pytest.param(
        pieces(deflated(LONG) + b"more", 5), [], (1007, "invalid compressed data"), id="C4-more-behind-the-end"),
    pytest.param(compressed(bytes(1_000_000)), [], (1009, "message too large"), id="C1-bomb"),
    pytest.param(pieces(deflated(bytes(1_000_000)), 10), [], (1009, "message too large"), id="C3-bomb-in-fragments"),
]


@pytest.mark.parametrize(("data", "events", "ending"), CASES)
def test_what_a_peer_may_send(data: bytes, events: list[tuple[int, bytes]], ending: object) -> None:
    assert read(data) == (events, ending)
    for place in range(1, len(data)):
        assert read(data, place) == (events, ending)
    assert read(data, *range(1, len(data))) == (events, ending)


@pytest.mark.parametrize("excess", [-1, 0, 1, 2])
@pytest.mark.parametrize("limit", [1, 125, 65535, 131072])
@pytest.mark.parametrize("form", ["small", "stored", "fragments"])
def test_c2_the_limit_is_of_the_message_and_not_of_what_is_sent(limit: int, excess: int, form: str) -> None:
    """Of incompressible data more is sent than there is."""
    size = limit + excess
    data = b"x" * size if form == "small" else RANDOM.randbytes(size)
    payload = deflated(data, 0 if form == "stored" else 9)
    sent = pieces(payload, 1000) if form == "fragments" else frame(TEXT, payload, rsv=RSV1)
    parser = FrameParser(limit, 0, binary=True, inflate=inflate)
    parser.feed(bytes([sent[0] & 0xF0 | BINARY]) + sent[1:])
    if excess > 0:
        assert (parser.next(), parser.code, parser.reason) == (FAILED, 1009, "message too large")
    else:
        assert (parser.next(), parser.payload) == (BINARY, data)


@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize("fragments", [1, 10])
def test_what_is_sent_has_a_limit_of_its_own(excess: int, fragments: int) -> None:
    """An eighth more than the message may have, and 64 bytes: known from the length, before it has come."""
    most = 1000 + 125 + 64
    first = frame(TEXT, bytes(most // 2), fin=False, rsv=RSV1) if fragments > 1 else b""
    length = (most - most // 2 if first else most) + excess
    last = frame(CONTINUATION if first else TEXT, bytes(length), rsv=0 if first else RSV1)
    ending = read(first + last[:4])[1]
    assert ending == ((1009, "message too large") if excess else "waiting")


def test_what_is_limited_by_nothing_is_inflated_whole() -> None:
    assert read(compressed(bytes(300_000)), limit=0) == ([(TEXT, bytes(300_000))], "open")


def test_without_negotiation_the_bit_is_reserved() -> None:
    parser = FrameParser(0, 0)
    parser.feed(compressed(LONG))
    assert (parser.next(), parser.code, parser.reason) == (FAILED, 1002, "reserved bit set")


@pytest.mark.parametrize("opcode", [CONTINUATION, 3, 8, PING, 10])
def test_only_messages_are_encoded_as_compressed(opcode: int) -> None:
    with pytest.raises(ValueError, match="reserved opcode"):
        encode_frame(opcode | DEFLATED, b"")
    assert encode_frame(TEXT | DEFLATED, b"x") == b"\xc1\x01x"
    assert encode_frame(BINARY | DEFLATED, b"x", b"\0\0\0\0") == b"\xc2\x81\0\0\0\0x"


MESSAGES = st.lists(st.tuples(
    st.booleans(), st.sampled_from([TEXT, BINARY]), st.text(max_size=200).map(lambda text: text.encode() * 2),
    st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=4)


@given(MESSAGES, st.lists(st.integers(0, 400), max_size=6).map(sorted), st.integers(0, 255), st.integers(0, 400))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_agrees_with_websockets(
    messages: list[tuple[bool, int, bytes, int, int]], cuts: list[int], octet: int, place: int
) -> None:
    """Of sessions, and of such with one byte changed."""
    session = b""
    for packed, opcode, data, size, level in messages:
        payload = deflated(data, level) if packed else data
        sent = pieces(payload, size, RSV1 if packed else 0)
        session += bytes([sent[0] & 0xF0 | opcode]) + sent[1:]
    assert read(session, *[min(cut, len(session)) for cut in cuts], limit=0) == (read_websockets(session), "open")

    changed = session[:place] + bytes([octet]) + session[place + 1 :]
    events, ending = read(changed, *[min(cut, len(changed)) for cut in cuts], limit=0)
    theirs = read_websockets(changed)
    if theirs is None:
        assert ending != "open"
    elif ending in ("open", "waiting"):
        assert events == theirs
    else:
        # We are stricter: websockets leaves UTF-8 to others, and takes what is not deflated to its end.
        assert events == theirs[: len(events)]


def read_websockets(data: bytes) -> list[tuple[int, bytes]] | None:
    """The messages, None where it fails."""
    protocol = Protocol(SERVER, max_size=None)
    protocol.extensions = [PerMessageDeflate(True, True, 15, 15)]
    protocol.receive_data(data)
    events: list[tuple[int, bytes]] = []
    opcode, whole = 0, b""
    for received in protocol.events_received():
        assert isinstance(received, WebsocketsFrame)
        if received.opcode >= WebsocketsOpcode.CLOSE:
            events.append((int(received.opcode), bytes(received.data)))
            continue
        opcode = int(received.opcode) or opcode
        whole += bytes(received.data)
        if received.fin:
            events.append((opcode, whole))
            whole = b""
    return None if protocol.parser_exc is not None else events


# --- what is negotiated -----------------------------------------------------------------------------------------------


def test_it_is_negotiated_with_those_who_offer_it(server: LocalServer) -> None:
    with Inflating(server.port) as client:
        assert b"\r\nSec-WebSocket-Extensions: " + AGREED in client.head
        assert server.call(lambda: server.server.cable.oldest(1)[0].deflates)
    with Client(server.port) as client:
        assert b"Extensions" not in client.upgrade()
    with Client(server.port) as client:
        assert b"Extensions" not in client.upgrade(OFFER.replace(b"window_bits", b"window_bits=7"))
    with Client(server.port) as client:  # two lines are one list
        lines = b"Sec-WebSocket-Extensions: x\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        assert AGREED in client.upgrade(UPGRADE[:-2] + lines)


def test_it_is_off_by_default(serve: Serve) -> None:
    server = serve(ticking=False)
    with Client(server.port) as client:
        assert b"Extensions" not in client.upgrade(OFFER)
        client.send(compressed(b'{"type":"subscribe","stream":"s"}'))
        assert client.read_end() == (1002, "reserved bit set")
    with server.connect("s") as client:
        server.publish("s", HTML)
        client.expect(message("s", HTML))  # read as a client that knows of no reserved bits


def test_zlib_is_imported_only_where_it_is_on(spawn: Spawn) -> None:
    for options, expected in (((), False), (("--compression", "true"), True)):
        with spawn(*options) as server, Inflating(server.port):
            maps = Path(f"/proc/{server.process.pid}/maps").read_text()
            if "/zlib." in Path("/proc/self/maps").read_text():  # it may be built into Python
                assert ("/zlib." in maps) == expected


# --- messages to subscribers ------------------------------------------------------------------------------------------


def test_plain_and_compressed_subscribers_of_one_stream_get_the_same(server: LocalServer) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(kind(server.port)) for kind in (Inflating, Client) * 3]
        for client in clients:
            if type(client) is Client:
                client.upgrade()
            client.subscribe("s")
        assert server.post({"stream": "s", "data": "small"}) == (200, {"subscribers": 6})
        assert server.post({"stream": "s", "data": HTML}) == (200, {"subscribers": 6})
        server.call(lambda: [server.server.hub.publish("s", b"%d" % i * 99) for i in range(100, 200)])
        server.publish("s", RANDOM.randbytes(1000).hex())
        for client in clients:
            client.expect(message("s", "small"), message("s", HTML))
            client.expect(*[message("s", int(f"{i}" * 99)) for i in range(100, 200)])
            assert len(client.receive()["data"]) == 2000
        for client in clients[::2]:
            assert isinstance(client, Inflating)
            assert len(client.compressed) == 102
            assert client.compressed[0] < len(HTML) / 4


@pytest.mark.parametrize("size", [SMALLEST - 1, SMALLEST, SMALLEST + 1])
def test_small_messages_go_as_they_are(server: LocalServer, size: int) -> None:
    data = "x" * (size - len('{"type":"message","stream":"s","data":""}'))
    with Inflating(server.port) as client:
        client.subscribe("s")
        server.publish("s", data)
        client.expect(message("s", data))
        assert len(client.compressed) == (size >= SMALLEST)


def test_a_message_is_compressed_once_for_all(server: LocalServer, compressors: list[object]) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Inflating(server.port)) for _ in range(100)]
        for client in clients:
            client.subscribe("s")
        assert compressors == []
        sent = server.call(lambda: server.server.hub.counters.bytes_sent)
        server.publish("s", HTML)
        for client in clients:
            client.expect(message("s", HTML))
        assert len(compressors) == 1
        # Counted is what is sent.
        expected = 100 * (clients[0].compressed[0] + 4)
        assert server.call(lambda: server.server.hub.counters.bytes_sent) - sent == expected


def test_nothing_is_compressed_where_nobody_inflates(server: LocalServer, compressors: list[object]) -> None:
    with server.connect("s") as client, Inflating(server.port) as gone:
        gone.subscribe("s")
        gone.unsubscribe("s")
        gone.subscribe("t")
        server.publish("s", HTML)
        client.expect(message("s", HTML))
        assert compressors == []


def test_a_last_value_is_compressed_once_for_all_who_come(server: LocalServer, compressors: list[object]) -> None:
    assert server.post({"stream": "s", "data": HTML, "retain": True})[0] == 200
    for _ in range(3):
        with Inflating(server.port) as client, Inflating(server.port) as other, server.connect("s") as plain:
            for each in (client, other):
                each.subscribe("s")
                each.expect(message("s", HTML))
                assert len(each.compressed) == 1
            plain.expect(message("s", HTML))
    assert len(compressors) == 3  # a stream that nobody hears is forgotten


def test_who_leaves_first_gets_what_was_posted_before(server: LocalServer) -> None:
    with Inflating(server.port) as client, Inflating(server.port) as other:
        for each in (client, other):
            each.subscribe("s")
        (first, _) = server.call(server.server.cable.oldest, 2)

        def post_and_leave() -> None:
            server.server.hub.publish("s", json.dumps(HTML).encode())
            server.server.hub.unsubscribe(first, "s", "simple")
            server.server.hub.publish("s", b'"later"')

        server.call(post_and_leave)
        other.expect(message("s", HTML), message("s", "later"))
        client.expect(message("s", HTML))
        assert len(client.compressed) == 1
        client.subscribe("s")  # nothing else came


def test_the_excluded_one_gets_none_and_all_others_do(server: LocalServer) -> None:
    with Inflating(server.port) as client, Inflating(server.port) as other, server.connect("s") as plain:
        for each in (client, other):
            each.subscribe("s")
        client.command(type="hello")
        socket = client.receive()["socket"]
        assert server.post({"stream": "s", "data": HTML, "exclude": socket})[0] == 200
        server.publish("s", "next")
        other.expect(message("s", HTML), message("s", "next"))
        plain.expect(message("s", HTML), message("s", "next"))
        client.expect(message("s", "next"))


def test_a_slow_one_gets_compressed_what_waited_and_is_told_of_a_gap(serve: Serve) -> None:
    server = serve(compression=True, ticking=False, max_pending_messages=2)
    with Inflating(server.port, receive_buffer=4096) as client:
        client.subscribe("s")
        large = RANDOM.randbytes(1 << 19).hex()
        server.publish("s", large)
        server.wait_until(lambda: server.server.hub.idle and server.server.cable.blocked)
        for number in range(4):
            server.publish("s", [number, HTML])
            server.wait_until(lambda: server.server.hub.idle)
        client.expect(message("s", large), message("s", [0, HTML]), message("s", [1, HTML]))
        client.expect({"type": "gap", "stream": "s", "missed": 2})
        server.publish("s", [4, HTML])
        client.expect(message("s", [4, HTML]))
        assert len(client.compressed) == 3


def test_action_cables_clients_get_the_same(serve: Serve) -> None:
    server = serve(compression=True, ticking=False, default_protocol="actioncable", public_streams=True)
    identifier = json.dumps({"channel": "$pubsub", "stream_name": "s"})
    with Inflating(server.port) as client:
        assert client.receive()["type"] == "welcome"
        client.command(command="subscribe", identifier=identifier)
        client.expect({"identifier": identifier, "type": "confirm_subscription"})
        server.publish("s", HTML)
        client.expect({"identifier": identifier, "message": HTML})
        assert len(client.compressed) == 1


def test_large_fan_outs_of_both_kinds_take_turns(server: LocalServer) -> None:
    """The two halves of a group, served in slices, miss nothing and keep their order."""
    def hurry() -> None:
        server.server.hub.slice_ns = server.server.hub.turn_ns = 1

    server.call(hurry)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(kind(server.port)) for kind in (Inflating, Client) * 20]
        for client in clients:
            if type(client) is Client:
                client.upgrade()
            client.subscribe("s")
        for number in range(5):
            server.publish("s", [number, HTML])
        for client in clients:
            client.expect(*[message("s", [number, HTML]) for number in range(5)])


# --- messages from clients --------------------------------------------------------------------------------------------


def test_commands_may_be_compressed_or_not(server: LocalServer) -> None:
    with Inflating(server.port) as client:
        client.send(compressed(b'{"type":"subscribe","stream":"s"}'))
        client.expect(subscribed("s"))
        client.subscribe("t")
        client.send(pieces(deflated(b'{"type":"subscribe","stream":"u"}'), 5))
        client.expect(subscribed("u"))
        assert client.compressed == []  # answers


@pytest.mark.parametrize(("data", "ending"), [
    pytest.param(compressed(bytes(50_000_000)), (1009, "message too large"), id="C1"),
    pytest.param(pieces(deflated(bytes(50_000_000)), 500), (1009, "message too large"), id="C3"),
    pytest.param(frame(TEXT, b"garbage", rsv=RSV1), (1007, "invalid compressed data"), id="C4"),
    pytest.param(frame(PING, b"", rsv=RSV1), (1002, "reserved bit set"), id="F4"),
])
def test_bad_messages_end_their_connection_only(server: LocalServer, data: bytes, ending: tuple[int, str]) -> None:
    with Inflating(server.port) as client, Inflating(server.port) as other:
        client.send(data)
        assert client.read_end() == ending
        other.send(compressed(b'{"type":"subscribe","stream":"s"}'))
        other.expect(subscribed("s"))


def test_what_is_inflated_counts_for_a_turn_of_the_loop(server: LocalServer) -> None:
    """A few bytes that make a large message do not hold up everybody else."""
    text = b'{"type":"pong","x":"' + b"x" * 130_000 + b'"}'
    with Inflating(server.port) as client:
        client.subscribe("s")
        connection: Any = server.connection()

        def is_read_on_after(messages: int) -> bool:
            connection(compressed(text) * messages)
            return bool(connection.transport.is_reading())

        assert server.call(is_read_on_after, 1)
        server.wait_until(connection.transport.is_reading)
        assert not server.call(is_read_on_after, 3)
        client.subscribe("t")  # all of it is read in the end


def test_c5_an_idle_connection_keeps_no_more_than_a_plain_one(server: LocalServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(Inflating(server.port))
            client.send(compressed(b'{"type":"subscribe","stream":"s"}'))
            client.expect(subscribed("s"))
        server.publish("s", HTML)
        client.expect(message("s", HTML))
        server.wait_until(lambda: server.server.hub.idle)
        connections = server.call(server.server.cable.everybody)
        assert len(connections) == 20
        assert {each.__sizeof__() for each in connections} == {128}
        for each in connections:  # nor does it lead to anything of zlib's
            assert not {type(held).__module__ for held in gc.get_referents(each)} & {"zlib"}


# --- clients that others wrote ----------------------------------------------------------------------------------------


def test_websockets(server: LocalServer) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/cable") as client:
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        for _ in range(2):
            client.send(json.dumps({"type": "subscribe", "stream": "s", "padding": "x" * 5000}))
            assert json.loads(client.recv(PATIENCE)) == subscribed("s")
            server.publish("s", HTML)
            assert json.loads(client.recv(PATIENCE)) == message("s", HTML)


@pytest.fixture
def node(server: LocalServer) -> Iterator[subprocess.Popen[str]]:
    program = shutil.which("node")
    assert program, "these tests need node"
    url = f"ws://127.0.0.1:{server.port}/cable"
    process = subprocess.Popen(
        [program, JS / "peers" / "ws.mjs", url, "s", "true"], stdout=subprocess.PIPE, cwd=JS, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ws_for_node(server: LocalServer, node: subprocess.Popen[str], compressors: list[object]) -> None:
    assert node.stdout is not None
    lines = iter(node.stdout.readline, "")
    assert next(lines) == "open extensions=permessage-deflate\n"
    assert json.loads(next(lines).removeprefix("text ")) == subscribed("s")
    with server.connect("s") as plain:
        for number in range(3):
            server.publish("s", [number, HTML])
            assert json.loads(next(lines).removeprefix("text ")) == message("s", [number, HTML])
            plain.expect(message("s", [number, HTML]))
    assert len(compressors) == 3


def test_a_browser(server: LocalServer, context: BrowserContext, compressors: list[object]) -> None:
    page = context.new_page()
    with server.connect("s") as plain:
        extensions = page.evaluate(
            """url => new Promise((resolve, reject) => {
                window.texts = [];
                window.socket = new WebSocket(url);
                socket.onerror = reject;
                socket.onopen = () => socket.send(
                    JSON.stringify({type: 'subscribe', stream: 's', padding: 'x'.repeat(5000)}));
                socket.onmessage = event => {
                    if (texts.push(event.data) == 1) resolve(socket.extensions);
                };
            })""", f"ws://127.0.0.1:{server.port}/cable")
        assert extensions == AGREED.decode().strip()
        sent = ["small", HTML, "Grüße 🌭 " * 100, "x" * 500_000]
        for data in sent:
            server.publish("s", data)
            plain.expect(message("s", data))
        page.wait_for_function("count => texts.length == count", arg=len(sent) + 1)
        texts = page.evaluate("texts")
    assert [json.loads(text) for text in texts] == [subscribed("s"), *[message("s", data) for data in sent]]
    assert len(compressors) == 3
    page.evaluate("socket.close()")
