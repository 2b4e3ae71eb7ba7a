"""signed_streams = required: clients of the simple protocol subscribe by signed names, and by nothing else."""

from __future__ import annotations

import json

import pytest

from fastcable.signing import MAX_TOKEN, sign
from tests.harness import CABLE_UPGRADE, TEXT, Client, LocalServer, Serve, frame, message, subscribed

SECRET = "s" * 32
NAME = sign("chat/7", SECRET.encode())
UNSIGNED = {"type": "error", "stream": NAME[:-1], "reason": "stream must be a signed name"}


@pytest.fixture
def server(serve: Serve) -> LocalServer:
    return serve(signed_streams="required", turbo_secret=("n" * 32, SECRET), max_errors=3)


def altered(name: str, place: int) -> str:
    return name[:place] + ("0" if name[place] != "0" else "1") + name[place + 1 :]


def test_frames_repeat_the_name_as_it_was_sent(server: LocalServer) -> None:
    with server.connect() as client, server.connect() as other:
        client.subscribe(NAME)
        client.subscribe(NAME)  # confirmed again, delivered once
        other.subscribe(sign("chat/8", SECRET.encode()))
        assert server.post({"stream": "chat/7", "data": 1}) == (200, {"subscribers": 1})
        assert server.post({"stream": NAME, "data": 2}) == (200, {"subscribers": 0})
        assert server.post({"stream": "chat/7", "data": 3}) == (200, {"subscribers": 1})
        client.expect(message(NAME, 1), message(NAME, 3))
        client.unsubscribe(NAME)
        client.command(type="hello")
        assert client.receive()["type"] == "hello"
        assert server.request("GET", "/_streams?stream=chat/7")[2] == b'{"subscribers":0}'


def test_names_signed_by_different_keys_are_the_same_stream(server: LocalServer) -> None:
    newer = sign("chat/7", b"n" * 32)
    with server.connect() as client:
        client.subscribe(NAME)
        client.subscribe(newer)
        server.publish("chat/7", 1)
        assert {client.receive()["stream"] for _ in range(2)} == {NAME, newer}
        client.unsubscribe(newer)
        server.publish("chat/7", 2)
        server.publish("chat/7", 3)
        client.expect(message(NAME, 2), message(NAME, 3))


def test_the_retained_value_and_gaps_have_the_name_as_it_was_sent(serve: Serve) -> None:
    server = serve(signed_streams="required", turbo_secret=(SECRET,), max_pending_messages=1)
    server.post({"stream": "chat/7", "data": "kept", "retain": True})
    with server.connect(receive_buffer=4096) as client:
        client.subscribe(NAME)
        client.expect(message(NAME, "kept"))
        server.stall("chat/7")
        for number in range(3):
            server.publish("chat/7", number)
        server.wait_until(lambda: server.server.hub.idle)
        assert len(client.receive()["data"]) == 1 << 20
        client.expect(message(NAME, 0), {"type": "gap", "stream": NAME, "missed": 2})


UNSIGNED_NAMES = pytest.mark.parametrize("name", [
    pytest.param("chat/7", id="A13-not-signed"),
    pytest.param("", id="A13-empty"),
    pytest.param(altered(NAME, 0), id="A13-altered-name"),
    pytest.param(altered(NAME, -1), id="A13-altered-signature"),
    pytest.param(NAME[:-1], id="A13-shortened"),
    pytest.param(NAME.upper(), id="A13-upper-case"),
    pytest.param(NAME[:-64] + "é" * 64, id="A13-not-ascii"),
    pytest.param(sign("chat/7", b"another secret"), id="A13-another-key"),
    pytest.param("Y2hhdC83--" + "0" * 64, id="A13-another-purpose"),
    pytest.param("x" * (MAX_TOKEN + 1), id="A13-long"),
])


@UNSIGNED_NAMES
def test_what_nobody_has_signed_is_a_bad_command(server: LocalServer, name: str) -> None:
    with server.connect() as client:
        for _ in range(4):
            client.command(type="subscribe", stream=name)
            client.expect({**UNSIGNED, "stream": name})
        assert client.read_close() == (1008, "too many bad commands")
        assert server.call(lambda: dict(server.server.hub.streams)) == {}


@pytest.mark.parametrize("name", [7, True, None, [], {}, "x" * 4097, "é" * 2049])
@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
def test_what_cannot_be_a_name_is_not_repeated(server: LocalServer, verb: str, name: object) -> None:
    with server.connect() as client:
        client.command(type=verb, stream=name)
        client.expect({"type": "error", "reason": "stream must be a signed name"})


@pytest.mark.parametrize(("size", "known"), [(-1, False), (0, True), (1, True)])
def test_max_identifier_size_is_for_the_name_as_sent(serve: Serve, size: int, known: bool) -> None:
    server = serve(signed_streams="required", turbo_secret=(SECRET,), max_identifier_size=len(NAME) + size)
    with server.connect() as client:
        client.command(type="subscribe", stream=NAME)
        client.expect(subscribed(NAME) if known else {**UNSIGNED, "stream": NAME})


@pytest.mark.parametrize("size", [254, 255])
def test_a_name_of_255_bytes_may_be_signed(server: LocalServer, size: int) -> None:
    with server.connect() as client:
        client.subscribe(sign("x" * size, SECRET.encode()))
        server.publish("x" * size, 1)
        assert client.receive()["data"] == 1


def test_other_commands_are_as_ever(server: LocalServer) -> None:
    with server.connect() as client:
        client.command(type="unsubscribe", stream=NAME)
        client.command(type="pong")
        client.command(type="hello")
        assert client.receive()["type"] == "hello"
        client.command(type="nonsense", stream=NAME)
        assert client.receive()["stream"] == NAME
        client.send_frame(TEXT, b"[")
        client.expect({"type": "error", "reason": "not valid JSON"})


def test_too_many_subscriptions(serve: Serve) -> None:
    server = serve(signed_streams="required", turbo_secret=(SECRET,), max_subscriptions=1)
    with server.connect() as client:
        client.subscribe(NAME)
        other = sign("chat/8", SECRET.encode())
        client.command(type="subscribe", stream=other)
        client.expect({"type": "error", "stream": other, "reason": "too many subscriptions"})


def test_a_good_command_ends_a_row_of_bad_ones(server: LocalServer) -> None:
    with server.connect() as client:
        for _ in range(3):
            for _ in range(3):
                client.command(type="subscribe", stream="chat/7")
                client.expect({**UNSIGNED, "stream": "chat/7"})
            client.subscribe(NAME)


def test_the_name_is_the_same_for_clients_of_action_cable(server: LocalServer) -> None:
    identifier = json.dumps({"channel": "$pubsub", "signed_stream_name": NAME})
    with server.connect() as simple, Client(server.port) as cable:
        simple.subscribe(NAME)
        cable.upgrade(CABLE_UPGRADE)
        assert cable.receive()["type"] == "welcome"
        cable.send(frame(TEXT, json.dumps({"command": "subscribe", "identifier": identifier}).encode()))
        assert cable.receive()["type"] == "confirm_subscription"
        assert server.post({"stream": "chat/7", "data": 1}) == (200, {"subscribers": 2})
        simple.expect(message(NAME, 1))
        cable.expect({"identifier": identifier, "message": 1})


@UNSIGNED_NAMES
@pytest.mark.parametrize("channel", ["Turbo::StreamsChannel", "$pubsub"], ids=["Turbo", "pubsub"])
def test_what_nobody_has_signed_is_rejected_for_clients_of_action_cable(
    server: LocalServer, channel: str, name: str
) -> None:
    bad, good = (json.dumps({"channel": channel, "signed_stream_name": each}) for each in (name, NAME))
    with Client(server.port) as cable:
        cable.upgrade(CABLE_UPGRADE)
        assert cable.receive()["type"] == "welcome"
        for identifier in (bad, bad, good):
            cable.command(command="subscribe", identifier=identifier)
        cable.expect(
            *[{"identifier": bad, "type": "reject_subscription"}] * 2,
            {"identifier": good, "type": "confirm_subscription"})
        assert list(server.call(lambda: dict(server.server.hub.streams))) == ["chat/7"]
