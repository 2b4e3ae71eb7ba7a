"""Action Cable's protocol: commands in, answers out, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fastcable._fanout import WebSocketGroup
from fastcable._hub import Hub, Subscriber
from fastcable.channels import Authorizer, Channel
from fastcable.dialects._actioncable import ActionCableDialect, disconnect
from tests.harness import CLOSE, TEXT, UPGRADE, Client, LocalServer, Serve, frame

ABSENT, PENDING, LIVE = 0, 1, 2
ROOM = '{"channel":"Room","id":7}'
STOCK = b"actioncable-v1-json, actioncable-unsupported"
ROOMS = (Channel("Room", "room:{id}", public=True),)
CONFIRMED = rb'{"identifier":"{\"channel\":\"Room\",\"id\":7}","type":"confirm_subscription"}'
REJECTED = rb'{"identifier":"{\"channel\":\"Room\",\"id\":7}","type":"reject_subscription"}'


def command(verb: object, identifier: object, **more: object) -> bytes:
    return json.dumps({"command": verb, "identifier": identifier, **more}).encode()


class Peer(Subscriber):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.closed: list[tuple[int, str]] = []

    def answer(self, text: bytes) -> None:
        self.answers.append(text)

    def close(self, code: int, reason: str = "") -> None:
        self.closed.append((code, reason))


class RecordingHub(Hub):
    """Keeps who wanted what; confirms at once, or refuses when `full`. Every subscription is in the same `state`."""

    calls: list[tuple[str, ...]]
    full: bool
    state: int
    dialect: ActionCableDialect

    def __init__(self) -> None:
        super().__init__(lambda callback: None)
        self.calls = []
        self.full = False
        self.state = ABSENT

    def standing(self, subscriber: Subscriber, key: object) -> int:
        return self.state

    def subscribe(self, subscriber: Subscriber, name: str, key: object) -> bool:
        assert isinstance(key, str)
        self.calls.append(("subscribe", name, key))
        if not self.full:
            self.dialect.confirmed(subscriber, name, key)
        return not self.full

    def withdraw(self, subscriber: Subscriber, key: object) -> None:
        assert isinstance(key, str)
        self.calls.append(("withdraw", key))

    def socket_id(self, subscriber: Subscriber) -> str:
        return "id-1"


@pytest.fixture
def hub() -> RecordingHub:
    return RecordingHub()


@pytest.fixture
def peer() -> Peer:
    return Peer()


Speak = Callable[..., ActionCableDialect]


@pytest.fixture
def speak(hub: RecordingHub) -> Speak:
    def speak(max_identifier_size: int = 4096, **options: bool) -> ActionCableDialect:
        hub.dialect = ActionCableDialect(hub, WebSocketGroup, Authorizer(ROOMS), max_identifier_size, **options)
        return hub.dialect

    return speak


# What it says


@pytest.mark.parametrize(("options", "welcome"), [
    ({}, b'{"type":"welcome","sid":"id-1"}'),
    ({"reconfirms": True}, b'{"type":"welcome","sid":"id-1"}'),
    ({"pongs": True}, b'{"type":"welcome","sid":"id-1","extensions":["pong"]}'),
])
def test_the_welcome_comes_first_and_has_the_socket_id(
    speak: Speak, peer: Peer, options: dict[str, bool], welcome: bytes
) -> None:
    speak(**options).opened(peer)
    assert peer.answers == [welcome]


def test_a_subscription_is_confirmed_with_its_identifier_as_it_came(
    speak: Speak, hub: RecordingHub, peer: Peer
) -> None:
    speak().received(peer, command("subscribe", ROOM))
    assert hub.calls == [("subscribe", "room:7", ROOM)]
    assert peer.answers == [CONFIRMED]


@pytest.mark.parametrize("identifier", [
    '{"channel":"Room","id":7}',
    '{"id":7,"channel":"Room"}',
    ' { "channel" : "Room" ,\n"id" : "7" , "more" : 1.50 } ',
    '{"channel":"Room","id":7,"name":"\\u00e9 é \U0001f600 </script> \\u2028"}',
    '{"channel":"Other","id":1,"channel":"Room","id":7}',
    '{"channel":"Room","id":7,"padding":"' + "x" * 600 + '"}',
])
def test_an_identifier_is_echoed_character_by_character(
    speak: Speak, hub: RecordingHub, peer: Peer, identifier: str
) -> None:
    """Whatever it looks like: the client finds its subscription by comparing text."""
    dialect = speak()
    dialect.received(peer, command("subscribe", identifier))
    assert hub.calls == [("subscribe", "room:7", identifier)]
    assert json.loads(peer.answers[0]) == {"identifier": identifier, "type": "confirm_subscription"}


def test_the_envelope_has_the_identifier_and_the_message(speak: Speak) -> None:
    group = speak().open_group("room:7", ROOM)
    assert isinstance(group, WebSocketGroup)
    assert group.before == rb'{"identifier":"{\"channel\":\"Room\",\"id\":7}","message":'
    assert group.after == b"}"


def test_pings_have_the_time_and_go_to_the_blocked_too(speak: Speak) -> None:
    dialect = speak()
    assert dialect.ping % 1_700_000_000 == b'{"type":"ping","message":1700000000}'
    assert dialect.timed_pings
    assert dialect.loses_silently


@pytest.mark.parametrize(("code", "reason", "text"), [
    (1001, "server stopping", b'{"type":"disconnect","reason":"server_restart","reconnect":true}'),
    (1001, "server restarting", b'{"type":"disconnect","reason":"server_restart","reconnect":true}'),
    (1001, "idle timeout", b'{"type":"disconnect","reason":"idle_timeout","reconnect":true}'),
    (1013, "too slow", b'{"type":"disconnect","reason":"too_slow","reconnect":true}'),
    (1011, "internal error", b'{"type":"disconnect","reason":"internal_error","reconnect":true}'),
    (1002, "a reserved bit is set", b'{"type":"disconnect","reason":"invalid_request","reconnect":true}'),
    (1003, "text frames only", b'{"type":"disconnect","reason":"invalid_request","reconnect":true}'),
    (1000, "unauthorized", b'{"type":"disconnect","reason":"unauthorized","reconnect":false}'),
    (1000, "token expired", b'{"type":"disconnect","reason":"token_expired","reconnect":false}'),
    (1000, "closed remotely", b'{"type":"disconnect","reason":"remote","reconnect":true}'),
    (1000, "closed remotely for good", b'{"type":"disconnect","reason":"remote","reconnect":false}'),
])
def test_a_farewell_always_says_whether_to_come_back(speak: Speak, code: int, reason: str, text: bytes) -> None:
    assert speak().farewell(code, reason) == text


def test_a_disconnect_of_ones_own() -> None:
    assert disconnect('"', False) == rb'{"type":"disconnect","reason":"\"","reconnect":false}'


# Asked again


@pytest.mark.parametrize(("reconfirms", "state", "answers"), [
    (False, PENDING, []), (True, PENDING, []), (False, LIVE, []), (True, LIVE, [CONFIRMED]),
], ids=["pending", "pending-stock", "live", "live-stock"])
def test_a_repeated_subscribe(
    speak: Speak, hub: RecordingHub, peer: Peer, reconfirms: bool, state: int, answers: list[bytes]
) -> None:
    """@rails/actioncable asks every 500 ms until it hears of it; @anycable/core unsubscribes when it hears twice."""
    hub.state = state
    dialect = speak(reconfirms=reconfirms)
    dialect.received(peer, command("subscribe", ROOM))
    assert hub.calls == []
    assert peer.answers == answers


def test_unsubscribe_needs_nothing_but_the_identifier_and_is_not_answered(
    speak: Speak, hub: RecordingHub, peer: Peer
) -> None:
    dialect = speak()
    dialect.received(peer, command("unsubscribe", ROOM))
    dialect.received(peer, command("unsubscribe", "no JSON"))
    assert hub.calls == [("withdraw", ROOM), ("withdraw", "no JSON")]
    assert peer.answers == []


# Rejections


@pytest.mark.parametrize("identifier", [
    "", "{", "null", "7", '"Room"', "[]", "{}", '{"channel":7,"id":7}', '{"channel":null}', '{"id":7}',
    '{"channel":"room","id":7}',
    '{"channel":"Room"}', '{"channel":"Room","id":""}', '{"channel":"Room","id":null}', '{"channel":"Room","id":true}',
    '{"channel":"Room","id":1.5}', '{"channel":"Room","id":[7]}', '{"channel":"Room","id":"a:b"}',
    '{"channel":"Room","id":"' + "x" * 201 + '"}', '{"channel":"Room","id":7}{', "[" * 2000, "NaN", "\ufeff{}",
])
def test_who_asks_for_what_is_not_served_is_rejected_and_lives_on(
    speak: Speak, hub: RecordingHub, peer: Peer, identifier: str
) -> None:
    dialect = speak()
    dialect.received(peer, command("subscribe", identifier))
    assert hub.calls == []
    assert json.loads(peer.answers[0]) == {"identifier": identifier, "type": "reject_subscription"}
    dialect.received(peer, command("subscribe", ROOM))
    assert peer.answers[1:] == [CONFIRMED]
    assert peer.closed == []


def test_a_subscription_too_many_is_rejected(speak: Speak, hub: RecordingHub, peer: Peer) -> None:
    hub.full = True
    speak().received(peer, command("subscribe", ROOM))
    assert peer.answers == [REJECTED]


@pytest.mark.parametrize(("limit", "size", "known"), [
    (100, 99, True), (100, 100, True), (100, 101, False), (1000, 999, True), (1000, 1000, True), (1000, 1001, False),
    (0, 100_000, True),
])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_large_identifier_is_rejected(
    speak: Speak, hub: RecordingHub, peer: Peer, limit: int, size: int, known: bool, letter: str
) -> None:
    """Its size is that of its UTF-8; a group keeps it, so a client could have us keep a hundred megabytes."""
    start, end = '{"channel":"Room","id":7,"x":"', '"}'
    room = size - len(start + end)
    identifier = start + letter * (room // len(letter.encode())) + "x" * (room % len(letter.encode())) + end
    assert len(identifier.encode()) == size
    speak(limit).received(peer, command("subscribe", identifier))
    assert bool(hub.calls) == known
    assert json.loads(peer.answers[0])["type"] == ("confirm_subscription" if known else "reject_subscription")


# What is ignored


@pytest.mark.parametrize("text", [
    b"", b"\0", b"{", b"nonsense", b"null", b"[]", b"7", b'"subscribe"', b"{}", b"[" * 100_000, b'{"a":' * 100_000,
    b'{"command":"subscribe"}', command("subscribe", None), command("subscribe", 7),
    command("subscribe", {"channel": "Room"}), command("subscribe", [ROOM]), command(None, ROOM), command(7, ROOM),
    command(["subscribe"], ROOM), command("", ROOM), command("Subscribe", ROOM), command("history", ROOM),
    command("join", ROOM), command("whisper", ROOM, data=1),
    command("message", ROOM, data='{"action":"speak"}'), b'{"command":"pong"}', b'{"command":"ping"}',
    b'{"type":"subscribe","stream":"s"}', b'{"type":"hello"}',
    rb'{"command":"subscribe","identifier":"\ud800"}', b'{"command":"subscribe","identifier":"' + b"x" * 1000,
])
def test_what_is_no_command_is_ignored_however_often(
    speak: Speak, hub: RecordingHub, peer: Peer, text: bytes
) -> None:
    """There is no error frame; and nobody is closed or left deaf."""
    dialect = speak()
    for _ in range(100):
        dialect.received(peer, text)
    assert (hub.calls, peer.answers, peer.closed) == ([], [], [])
    dialect.received(peer, command("subscribe", ROOM))
    assert peer.answers == [CONFIRMED]


# With a server


def upgrade(protocols: bytes = STOCK) -> bytes:
    return UPGRADE[:-2] + b"Sec-WebSocket-Protocol: " + protocols + b"\r\n\r\n"


def open_cable(server: LocalServer, protocols: bytes = STOCK, **options: int) -> Client:
    """A client that has been welcomed; `sid` is in the welcome."""
    client = Client(server.port, **options)
    client.upgrade(upgrade(protocols) if protocols else UPGRADE)
    assert client.receive()["type"] == "welcome"
    return client


def subscribe(client: Client, identifier: str = ROOM) -> None:
    client.send_frame(TEXT, command("subscribe", identifier))
    client.expect({"identifier": identifier, "type": "confirm_subscription"})


@pytest.fixture
def server(serve: Serve) -> LocalServer:
    return serve(ticking=False, channels=ROOMS, close_timeout=0)


@pytest.mark.parametrize(
    "data", [b"1", b'"x"', b"null", b"[1.0, 123456789012345678901234567890]", b'{"a": [{}]}', b"0"])
def test_a_message_is_passed_on_byte_by_byte(server: LocalServer, data: bytes) -> None:
    with open_cable(server) as client:
        subscribe(client)
        assert server.post(b'{"stream":"room:7","data":%b}' % data) == (200, {"subscribers": 1})
        assert client.read_frame() == (
            TEXT, rb'{"identifier":"{\"channel\":\"Room\",\"id\":7}","message":' + data + b"}")


def test_both_protocols_share_a_stream(server: LocalServer) -> None:
    with open_cable(server) as cable, server.connect("room:7") as simple:
        subscribe(cable)
        assert server.post({"stream": "room:7", "data": [1]}) == (200, {"subscribers": 2})
        cable.expect({"identifier": ROOM, "message": [1]})
        simple.expect({"type": "message", "stream": "room:7", "data": [1]})


def test_two_identifiers_of_one_stream_are_two_subscriptions(server: LocalServer) -> None:
    other = '{"id":"7","channel":"Room"}'
    with open_cable(server) as client:
        subscribe(client)
        subscribe(client, other)
        server.publish("room:7", 1)
        assert {client.receive()["identifier"] for _ in range(2)} == {ROOM, other}
        client.send_frame(TEXT, command("unsubscribe", ROOM))
        client.send_frame(TEXT, command("subscribe", "late"))
        assert client.receive()["type"] == "reject_subscription"
        server.publish("room:7", 2)
        client.expect({"identifier": other, "message": 2})


def test_a_repeated_subscribe_delivers_once(server: LocalServer) -> None:
    with open_cable(server) as client:
        subscribe(client)
        subscribe(client)
        server.publish("room:7", 1)
        server.publish("room:7", 2)
        client.expect({"identifier": ROOM, "message": 1}, {"identifier": ROOM, "message": 2})


def test_commands_that_come_with_the_handshake_are_carried_out_in_order(server: LocalServer) -> None:
    """Not dropped because nobody was welcomed yet."""
    words = ["subscribe", "unsubscribe", "subscribe"]
    commands = b"".join(frame(TEXT, command(word, ROOM)) for word in words)
    with Client(server.port) as client:
        head = client.upgrade(upgrade() + commands)
        assert b"\r\nSec-WebSocket-Protocol: actioncable-v1-json\r\n" in head
        assert client.receive()["type"] == "welcome"
        client.expect(*[{"identifier": ROOM, "type": "confirm_subscription"}] * 2)
        server.publish("room:7", 1)
        client.expect({"identifier": ROOM, "message": 1})


def test_a_stream_that_is_no_stream_is_rejected(serve: Serve) -> None:
    server = serve(channels=(Channel("Long", "x" * 200 + ":{a}", public=True),))
    with open_cable(server) as client:
        for size, kind in [(54, "confirm_subscription"), (55, "reject_subscription")]:
            identifier = json.dumps({"channel": "Long", "a": "a" * size})
            client.send_frame(TEXT, command("subscribe", identifier))
            client.expect({"identifier": identifier, "type": kind})


def test_max_subscriptions_rejects_and_an_unsubscribe_makes_room(serve: Serve) -> None:
    server = serve(channels=ROOMS, max_subscriptions=2)
    identifiers = [json.dumps({"channel": "Room", "id": number}) for number in range(3)]
    with open_cable(server) as client:
        for identifier in identifiers[:2]:
            subscribe(client, identifier)
        client.send_frame(TEXT, command("subscribe", identifiers[2]))
        client.expect({"identifier": identifiers[2], "type": "reject_subscription"})
        client.send_frame(TEXT, command("unsubscribe", identifiers[0]))
        subscribe(client, identifiers[2])


def test_the_retained_value_comes_behind_the_confirmation(server: LocalServer) -> None:
    assert server.post({"stream": "room:7", "data": "state", "retain": True})[0] == 200
    with open_cable(server) as client:
        subscribe(client)
        client.expect({"identifier": ROOM, "message": "state"})
        subscribe(client)
        server.publish("room:7", "next")
        client.expect({"identifier": ROOM, "message": "next"})


def test_the_sid_of_the_welcome_excludes_its_connection(server: LocalServer) -> None:
    with Client(server.port) as sender, open_cable(server) as other:
        sender.upgrade(upgrade())
        sid = sender.receive()["sid"]
        assert len(sid) == 32
        for client in (sender, other):
            subscribe(client)
        assert server.post({"stream": "room:7", "data": 1, "exclude": sid})[0] == 200
        assert server.post({"stream": "room:7", "data": 2, "exclude": sid.upper() + " "})[0] == 200
        other.expect({"identifier": ROOM, "message": 1}, {"identifier": ROOM, "message": 2})
        sender.expect({"identifier": ROOM, "message": 2})


def test_the_sid_stays_the_same_and_another_connection_has_another(server: LocalServer) -> None:
    with open_cable(server), open_cable(server):
        one, other = server.call(server.server.cable.oldest, 2)
        hub = server.server.hub
        ids = [server.call(hub.socket_id, connection) for connection in (one, other, one)]
        assert ids[0] == ids[2] != ids[1]
        assert server.call(hub.socket_ids.find, ids[1]) is other


@pytest.mark.parametrize(("default_protocol", "protocols", "welcome"), [
    ("simple", b"", False), ("actioncable", b"", True),
    ("simple", b"actioncable-v1-json", True), ("simple", b"something-else", True),
])
def test_clients_that_offer_no_subprotocol_speak_the_default(
    serve: Serve, default_protocol: str, protocols: bytes, welcome: bool
) -> None:
    server = serve(channels=ROOMS, default_protocol=default_protocol)
    with Client(server.port) as client:
        client.upgrade(upgrade(protocols) if protocols else UPGRADE)
        if welcome:
            assert client.receive()["type"] == "welcome"
            subscribe(client)
        else:
            client.subscribe("s")


# Endings


def read_ending(client: Client) -> tuple[object, tuple[int, str]]:
    """The disconnect frame and the close frame, which must be the last ones."""
    said = client.receive()
    return said, client.read_close()


def disconnected(reason: str) -> dict[str, object]:
    return {"type": "disconnect", "reason": reason, "reconnect": True}


def test_a_server_that_stops_says_that_it_will_be_back(server: LocalServer) -> None:
    with open_cable(server) as client:
        server.call(server.connection().close, 1001, "server stopping")
        assert read_ending(client) == (disconnected("server_restart"), (1001, "server stopping"))


@pytest.mark.parametrize(("data", "code"), [
    (frame(2, b"binary"), 1003), (frame(TEXT, b"\xff"), 1007), (frame(TEXT, b"x", rsv=1), 1002),
    (frame(TEXT, b"x" * 201), 1009),
], ids=["binary", "bad-utf-8", "reserved-bit", "too-large"])
def test_who_breaks_the_protocol_is_told_before_the_close_frame(serve: Serve, data: bytes, code: int) -> None:
    server = serve(max_message_size=200)
    with open_cable(server) as client:
        client.send(data)
        said, (closed, _) = read_ending(client)
        assert (said, closed) == (disconnected("invalid_request"), code)


def test_a_peer_that_closes_gets_its_close_frame_and_no_farewell(server: LocalServer) -> None:
    with open_cable(server) as client:
        client.send_frame(CLOSE, b"\x03\xe8")
        assert client.read_end() == (1000, "")


@pytest.mark.parametrize("slow_consumer", ["drop", "latest", "close"])
def test_who_would_lose_a_message_is_disconnected_whatever_happens_to_others(
    serve: Serve, slow_consumer: str
) -> None:
    """This wire has no gap. What waits is dropped; the farewell comes behind the rest of the frame that was begun."""
    server = serve(
        ticking=False, channels=ROOMS, slow_consumer=slow_consumer, max_pending_messages=2, close_timeout=0)
    counters = server.server.hub.counters
    with open_cable(server, receive_buffer=4096) as client:
        subscribe(client)
        server.stall("room:7")
        for number in range(2):
            server.publish("room:7", number)
        server.wait_until(lambda: server.server.hub.idle)
        assert server.call(lambda: (counters.slow_closes, counters.drops)) == (0, 0)
        server.publish("room:7", 2)
        server.wait_until(lambda: counters.slow_closes)
        assert server.call(lambda: (counters.slow_closes, counters.drops, counters.gaps)) == (1, 3, 0)
        assert len(client.receive()["message"]) == 1 << 20
        assert read_ending(client) == (disconnected("too_slow"), (1013, "too slow"))


def test_an_identifier_that_cannot_be_judged_ends_the_connection_and_lets_it_come_back(
    server: LocalServer, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(channel: str, params: object) -> str:
        raise RuntimeError("broken")

    hub = server.server.hub
    server.server.site.dialect = ActionCableDialect(hub, WebSocketGroup, broken, 4096)
    with Client(server.port) as client:
        client.upgrade()
        assert client.receive()["type"] == "welcome"
        client.send_frame(TEXT, command("subscribe", ROOM))
        assert read_ending(client) == (disconnected("internal_error"), (1011, "internal error"))
    assert "broken" in caplog.text
