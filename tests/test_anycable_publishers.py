"""Broadcasts as the publishers of AnyCable send them, with the keys that they make of its secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcable._endpoints import Endpoints
from fastcable._fanout import WebSocketGroup
from fastcable._handshake import Accept
from fastcable._hub import Hub
from fastcable._json import embedded_json
from fastcable._request import HeadParser, Request
from fastcable._texts import TextGroup
from fastcable.asgi import CableMiddleware
from fastcable.channels import Channel
from fastcable.response import Response
from fastcable.settings import Settings
from fastcable.tokens import issue
from tests.harness import CABLE_UPGRADE, TEXT, Client, LocalServer, Serve, message
from tests.peers.rawhttp import RecordingHub, at_once, get, post

SECRET = "s3Krit"
KEY = "a239a7ca182c90fc32bdedf73703d271388cf433843affffd3a5e757041fc716"  # as AnyCable makes them
API_KEY = "1db397202b5bd68b12665b638515c3aeac9100f721fd7c4fcb6f29c69f32c886"
BEARER = f"Authorization: Bearer {KEY}"
API_BEARER = f"Authorization: Bearer {API_KEY}"
API = "/api/publish"
HELLO = '{"stream":"chat","data":"{\\"text\\":\\"hi\\"}"}'
OWN = "Authorization: Bearer own"
ROOM = '{"channel":"Room","id":7}'


class Peer:
    def is_loopback(self) -> bool:
        return True


def asked(request: bytes) -> Request:
    parser = HeadParser(0, 0)
    parser.feed(request)
    assert parser.request is not None
    return parser.request


def endpoints(hub: RecordingHub, *, broadcast: bool = True, **options: Any) -> Endpoints:
    return Endpoints(Settings(**{"secret": SECRET, **options}), hub, cable=True, broadcast=broadcast, demo=False)


def begin(request: bytes, **options: Any) -> Response | Accept | None:
    answer = endpoints(RecordingHub(), **options).begin(asked(request), Peer())
    assert not isinstance(answer, asyncio.Future)
    return answer


def status(request: bytes, **options: Any) -> int:
    """With which a request is refused at the end of its head; 0: its body is wanted."""
    answer = begin(request, **options)
    assert not isinstance(answer, Accept)
    return 0 if answer is None else answer.status


def publish(body: str | bytes, *lines: str, path: str = "/_broadcast", **options: Any) -> tuple[Response, RecordingHub]:
    """The answer to a whole broadcast, and what the hub got."""
    hub = RecordingHub()
    room = endpoints(hub, **options)
    request = asked(post(body, *(lines or [BEARER]), path=path))
    assert room.begin(request, Peer()) is None
    return at_once(room.publish(body.encode() if isinstance(body, str) else body, request)), hub


def refusal(body: str | bytes, **options: Any) -> tuple[int, str]:
    """Status and error of a body that is refused, for which nothing happens."""
    answer, hub = publish(body, **options)
    assert not hub.published
    assert not hub.disconnected
    return answer.status, json.loads(answer.content)["error"]


# Keys


@pytest.mark.parametrize(("path", "line", "expected"), [
    ("/_broadcast", BEARER, 0), ("/_broadcast", API_BEARER, 401), ("/_broadcast", "X: y", 401),
    ("/_broadcast", f"Authorization: Bearer {SECRET}", 401), (API, API_BEARER, 0), (API, BEARER, 401),
    (API, OWN, 401), (API, "X: y", 401),
], ids=str)
@pytest.mark.parametrize("options", [{}, {"broadcast_key": "own"}], ids=["secret", "secret-and-key"])
def test_each_path_has_its_key(path: str, line: str, expected: int, options: dict[str, str]) -> None:
    """Nobody else may publish, not from this machine either."""
    assert status(post(HELLO, line, path=path), **options) == expected


def test_a_broadcast_key_of_ones_own_is_good_beside_the_secret() -> None:
    assert status(post(HELLO, OWN), broadcast_key="own") == 0
    assert status(post(HELLO, OWN)) == 401


@pytest.mark.parametrize(("path", "options", "problem"), [
    ("/_broadcast", {}, "Authorization: Bearer with the secret's broadcast-cable key is required"),
    ("/_broadcast", {"broadcast_key": "own"},
     "Authorization: Bearer with the broadcast_key or the secret's broadcast-cable key is required"),
    (API, {"broadcast_key": "own"}, "Authorization: Bearer with the secret's api-cable key is required"),
], ids=["secret", "secret-and-key", "api"])
def test_who_has_no_key_is_told_which_are_accepted(path: str, options: dict[str, str], problem: str) -> None:
    answer = begin(post(HELLO, path=path), **options)
    assert isinstance(answer, Response)
    assert (answer.status, json.loads(answer.content)) == (401, {"error": problem})
    assert b"WWW-Authenticate: Bearer\r\n" in answer.headers


@pytest.mark.parametrize(("options", "expected"), [
    ({"secret": None}, 404), ({"secret": None, "broadcast_key": "own"}, 404), ({"broadcast": False}, 404), ({}, 0),
], ids=["neither", "key", "other-listener", "secret"])
def test_the_api_is_there_with_a_secret_where_broadcasts_are(options: dict[str, Any], expected: int) -> None:
    assert status(post(HELLO, API_BEARER, path=API), **options) == expected


@pytest.mark.parametrize(("line", "expected"), [(BEARER, 200), (OWN, 200), (API_BEARER, 401), ("X: y", 401)])
def test_whoever_may_broadcast_may_count(line: str, expected: int) -> None:
    assert status(get("/_streams?stream=s", line), broadcast_key="own") == expected


# The order of checks


@pytest.mark.parametrize("path", ["/_broadcast", API])
@pytest.mark.parametrize(("method", "line", "size", "expected"), [
    ("GET", None, 101, 405), ("POST", None, 101, 401), ("POST", "Content-Encoding: gzip", 101, 415),
    ("POST", "X: y", 101, 413), ("POST", "X: y", 100, 0), ("POST", "X: y", 99, 0),
])
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json"])
def test_the_content_type_is_not_checked_but_all_else_in_its_order(
    path: str, method: str, line: str | None, size: int, expected: int, content_type: str | None
) -> None:
    lines = [] if line is None else [line, BEARER if path == "/_broadcast" else API_BEARER]
    request = post("", *lines, path=path, content_type=content_type, length=size).replace(b"POST", method.encode(), 1)
    assert status(request, max_broadcast_size=100) == expected


def test_with_the_broadcast_key_the_content_type_is_checked() -> None:
    assert status(post(HELLO, OWN, content_type="text/plain"), broadcast_key="own") == 415
    assert status(post(HELLO, BEARER, content_type="text/plain"), broadcast_key="own") == 0


# Forms


def test_the_key_tells_the_form() -> None:
    for lines, path in (([BEARER], "/_broadcast"), ([API_BEARER], API)):
        answer, hub = publish(HELLO, *lines, path=path, broadcast_key="own")
        assert (answer.status, answer.content, answer.headers) == (201, b"", b"")
        assert (hub.published, hub.embedded) == ([("chat", rb'"{\"text\":\"hi\"}"')], [True])
    answer, hub = publish(HELLO, OWN, broadcast_key="own")
    assert (answer.status, answer.content) == (200, b'{"subscribers":3}')
    assert (hub.published, hub.embedded) == ([("chat", rb'"{\"text\":\"hi\"}"')], [False])


def test_a_broadcast_key_that_is_the_derived_one_is_a_broadcast_key() -> None:
    answer, hub = publish(HELLO, broadcast_key=KEY)
    assert (answer.status, hub.embedded) == (200, [False])


@pytest.mark.parametrize(("data", "embedded"), [
    ('"text"', True), ('""', True), ("null", False), ("5", False), (' { "a" : "b" } ', False), ('["x"]', False)])
def test_only_strings_may_hold_json(data: str, embedded: bool) -> None:
    for body in (f'{{"stream":"s","data":{data}}}', f'[{{"data":{data},"stream":"s"}}]'):
        answer, hub = publish(body)
        assert (answer.status, hub.published, hub.embedded) == (201, [("s", data.strip().encode())], [embedded])


@pytest.mark.parametrize(("members", "excluded"), [
    ("", None), (',"meta":null', None), (',"meta":{}', None), (',"meta":{"exclude_socket":null}', None),
    (',"meta":{"exclude_socket":"abc"}', "abc"),
    (',"meta":{"broadcast_type":"presence","transient":true,"more":[],"exclude_socket":"abc"}', "abc"),
    (',"exclude":5,"retain":5', None),
], ids=str)
def test_meta_may_exclude_a_socket(members: str, excluded: str | None) -> None:
    """Of a message's own options only: those of the other form mean nothing here."""
    for body in (f'{{"stream":"s","data":"x"{members}}}', f'[{{"stream":"s","data":"x"{members}}}]'):
        answer, hub = publish(body)
        assert (answer.status, hub.published, hub.options) == (201, [("s", b'"x"')], [(False, excluded)])


def test_a_batch_is_published_in_order() -> None:
    answer, hub = publish('[{"stream":"a","data":"1"},{"stream":"b","data":2},{"stream":"a","data":"x"}]')
    assert (answer.status, answer.content) == (201, b"")
    assert hub.published == [("a", b'"1"'), ("b", b"2"), ("a", b'"x"')]
    assert hub.embedded == [True, False, True]
    assert publish("[]")[0].status == 201


@pytest.mark.parametrize(("size", "expected"), [(2, 201), (3, 201), (4, 413)], ids=["-1", "0", "+1"])
def test_a_batch_has_its_limit(size: int, expected: int) -> None:
    answer, hub = publish(f"[{','.join([HELLO] * size)}]", max_batch=3)
    assert (answer.status, len(hub.published)) == (expected, size if expected == 201 else 0)


@pytest.mark.parametrize(("payload", "disconnected"), [
    (r'{"identifier":"{\"user_id\":\"15\"}","reconnect":false}', ('{"user_id":"15"}', False)),
    (r'{"reconnect":true,"identifier":"{\"user_id\":\"15\"}"}', ('{"user_id":"15"}', True)),
    ('{"identifier":"x"}', ("x", False)), ('{"identifier":"","more":1}', ("", False)),
])
def test_a_command_disconnects(payload: str, disconnected: tuple[str, bool]) -> None:
    answer, hub = publish(f'{{"command":"disconnect","payload":{payload}}}')
    assert (answer.status, answer.content, hub.disconnected, hub.published) == (201, b"", [disconnected], [])


def test_what_has_a_stream_is_a_message() -> None:
    answer, hub = publish('{"command":"disconnect","stream":"s","data":1,"payload":{"identifier":"x"}}')
    assert (answer.status, hub.published, hub.disconnected) == (201, [("s", b"1")], [])


def test_with_the_broadcast_key_there_are_no_commands() -> None:
    answer, hub = publish('{"command":"disconnect","payload":{"identifier":"x"}}', OWN, broadcast_key="own")
    assert (answer.status, hub.disconnected) == (400, [])


@pytest.mark.parametrize(("body", "problem"), [
    ("", "body is empty: a JSON object with stream and data is expected"),
    (b"\xff", "body is not UTF-8"),
    ("5", "body must be an object with stream and data or with command, or an array of messages"),
    ("{}", "stream is missing"), ('{"data":"x"}', "stream is missing"), ('{"stream":"s"}', "data is missing"),
    ('{"stream":5,"data":"x"}', "stream must be a string"), ('{"stream":"","data":"x"}', "stream must not be empty"),
    ('{"stream":"s","data":"x","meta":[]}', "meta must be an object"),
    ('{"stream":"s","data":"x","meta":"{}"}', "meta must be an object"),
    ('{"stream":"s","data":"x","meta":{"exclude_socket":5}}',
     "meta.exclude_socket must be a string: the socket id of a client"),
    ('[{"stream":"s","data":"x"},{"stream":"s","data":"x","meta":5}]',
     "message 1 of the batch: meta must be an object"),
    ('[{"stream":"s","data":"x"},{"command":"disconnect","payload":{"identifier":"x"}}]',
     "message 1 of the batch: stream is missing"),
    ("[5]", "message 0 of the batch: must be an object with stream and data"),
    ('{"command":"stop"}', 'command must be "disconnect"'), ('{"command":null}', 'command must be "disconnect"'),
    ('{"command":["disconnect"]}', 'command must be "disconnect"'),
    ('{"command":"disconnect"}', "payload must be an object with identifier and reconnect"),
    ('{"command":"disconnect","payload":"{}"}', "payload must be an object with identifier and reconnect"),
    ('{"command":"disconnect","payload":{}}', "payload.identifier must be a string: the identifiers of a connection"),
    ('{"command":"disconnect","payload":{"identifier":{"user_id":15}}}',
     "payload.identifier must be a string: the identifiers of a connection"),
    ('{"command":"disconnect","payload":{"identifier":"x","reconnect":null}}',
     "payload.reconnect must be true or false"),
    ('{"command":"disconnect","payload":{"identifier":"x","reconnect":"false"}}',
     "payload.reconnect must be true or false"),
], ids=repr)
def test_bad_bodies_are_refused_and_nothing_happens(body: str | bytes, problem: str) -> None:
    assert refusal(body) == (400, problem)


def test_a_body_that_is_not_json_is_refused() -> None:
    code, problem = refusal('{"stream":"s","data":NaN}')
    assert (code, problem.startswith("body is not JSON: ")) == (400, True)


def test_nothing_is_taken_while_the_fan_out_is_behind() -> None:
    hub = RecordingHub()
    hub.congested = True
    assert at_once(endpoints(hub).publish(HELLO.encode(), asked(post(HELLO, BEARER)))).status == 503
    assert hub.published == []


@pytest.mark.parametrize(("path", "key", "expected"), [
    ("/_broadcast", KEY, (201, b"")), ("/_broadcast", "own", (200, b'{"subscribers":0}')),
    ("/_broadcast", "x", (401, None)), (API, API_KEY, (404, b"the application's own")),
], ids=["derived", "key", "wrong", "api"])
def test_the_middleware_takes_them_at_the_broadcast_path(
    path: str, key: str, expected: tuple[int, bytes | None]
) -> None:
    """All other paths are the application's."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": HELLO.encode()}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    async def application(scope: object, receive: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"the application's own"})

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"),
               (b"authorization", b"Bearer " + key.encode())]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": path, "query_string": b"",
             "headers": headers, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80)}
    asyncio.run(CableMiddleware(application, secret=SECRET, broadcast_key="own")(scope, receive, send))
    assert sent[0]["status"] == expected[0]
    assert expected[1] is None or sent[1]["body"] == expected[1]


# JSON in strings

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2**63, 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4))
SPACES = st.text(" \t\r\n", max_size=3)


@given(JSON, st.booleans(), st.sampled_from([None, 1, "\t"]), st.booleans(), SPACES, SPACES)
def test_any_json_text_comes_out_of_a_string_byte_for_byte(
    value: object, ascii_text: bool, indent: Any, ascii_string: bool, before: str, after: str
) -> None:
    text = f"{before}{json.dumps(value, ensure_ascii=ascii_text, indent=indent)}{after}".encode("utf-8", "replace")
    string = json.dumps(text.decode(), ensure_ascii=ascii_string).encode()
    assert embedded_json(string) == (string if value is None else text)


@given(st.text().filter(lambda text: text.isprintable()))
def test_other_text_stays_a_string(text: str) -> None:
    string = json.dumps(f"?{text}").encode()
    assert embedded_json(string) == string


@pytest.mark.parametrize(("text", "is_json"), [
    ("18446744073709551617.10", True), ("-0.0", True), ("[" * 1000 + "]" * 1000, True), ('{"a":1,"a":2}', True),
    ('"\\u00e9"', True), ("true", True), ('""', True), (' {"a" : 1}\n', True),
    ("null", False), (" null ", False), ("", False), ("nul", False), ("NaN", False), ("1e400", False),
    ("[" * 1025 + "]" * 1025, False), ('"\\ud800"', False), ("{'a':1}", False), ("\ufeff{}", False), ("1 2", False),
], ids=lambda value: repr(value)[:24])
def test_what_is_json(text: str, is_json: bool) -> None:
    string = json.dumps(text).encode()
    assert embedded_json(string) == (text.encode() if is_json else string)




def test_an_embedded_message_is_not_retained() -> None:
    for encoding in (WebSocketGroup, TextGroup):
        assert encoding(b"", b"").unwraps is False
    hub = Hub(lambda callback: None)
    with pytest.raises(ValueError, match="an embedded message cannot be retained"):
        hub.publish("s", b'"{}"', retain=True, embedded=True)


# Over the wire


@pytest.fixture
def server(serve: Serve) -> LocalServer:
    return serve(ping_interval=0, actioncable_ping_interval=0, secret=SECRET, broadcast_key="own",
                 channels=(Channel("Room", "room:{id}", public=True),))


def open_cable(server: LocalServer) -> tuple[Client, str]:
    """A client of Action Cable in the room, and its socket id."""
    client = Client(server.port)
    client.upgrade(CABLE_UPGRADE)
    sid = client.receive()["sid"]
    client.send_frame(TEXT, json.dumps({"command": "subscribe", "identifier": ROOM}).encode())
    client.expect({"identifier": ROOM, "type": "confirm_subscription"})
    return client, sid


def send(server: LocalServer, body: object, **headers: str) -> tuple[int, str | None, bytes]:
    """What the HTTP adapter of the anycable gem sends, with the headers that Ruby's Net::HTTP adds."""
    code, answer_headers, content = server.request("POST", "/_broadcast", json.dumps(body), {
        "Content-Type": "application/json", "Authorization": f"Bearer {KEY}", "Accept": "*/*", "User-Agent": "Ruby",
        "Accept-Encoding": "gzip;q=1.0,deflate;q=0.6,identity;q=0.3", "Connection": "close", **headers})
    return code, answer_headers["Content-Length"], content


def text(stream: str, data: object) -> bytes:
    return json.dumps(message(stream, data), separators=(",", ":")).encode()


def test_each_protocol_gets_what_it_wants(server: LocalServer) -> None:
    cable, _ = open_cable(server)
    with cable, server.connect("room:7") as simple:
        for data, wanted in [
            ('{"text": "hi", "n": 1.50e2, "n": 18446744073709551617}', None), ("[1,\n2]", None), ("5", None),
            ("null", '"null"'), ("plain", '"plain"'), ("", '""'), ('"quoted"', None),
        ]:
            assert send(server, {"stream": "room:7", "data": data}) == (201, "0", b"")
            assert cable.read_frame() == (
                TEXT, json.dumps({"identifier": ROOM, "message": 0}, separators=(",", ":")).encode()[:-2]
                + (wanted or data).encode() + b"}")
            assert simple.read_frame() == (TEXT, text("room:7", data))
        for value in (5, None, {"text": "{}"}, ["5"]):
            assert send(server, [{"stream": "room:7", "data": value}]) == (201, "0", b"")
            cable.expect({"identifier": ROOM, "message": value})
            simple.expect(message("room:7", value))


def test_with_the_broadcast_key_a_string_is_a_string_for_all(server: LocalServer) -> None:
    cable, _ = open_cable(server)
    with cable, server.connect("room:7") as simple:
        answer = server.post({"stream": "room:7", "data": "[5]"}, Authorization="Bearer own")
        assert answer == (200, {"subscribers": 2})
        cable.expect({"identifier": ROOM, "message": "[5]"})
        simple.expect(message("room:7", "[5]"))


def test_the_sender_is_excluded(server: LocalServer) -> None:
    first, sid = open_cable(server)
    second, _ = open_cable(server)
    with first, second, server.connect("room:7") as simple:
        assert send(server, {"stream": "room:7", "data": "[1]", "meta": {"exclude_socket": sid}})[0] == 201
        assert send(server, {"stream": "room:7", "data": "[2]"})[0] == 201
        first.expect({"identifier": ROOM, "message": [2]})
        second.expect({"identifier": ROOM, "message": [1]}, {"identifier": ROOM, "message": [2]})
        simple.expect(message("room:7", "[1]"), message("room:7", "[2]"))


def test_the_api_over_the_wire_and_chunked(server: LocalServer) -> None:
    with server.connect("s") as client:
        headers = {"Authorization": f"Bearer {API_KEY}", "Transfer-Encoding": "chunked"}
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len('{"stream":"s","data":"1"}'), b'{"stream":"s","data":"1"}')
        assert server.request("POST", API, body, headers)[0] == 201
        client.expect(message("s", "1"))


@pytest.mark.parametrize("reconnect", [True, False])
def test_a_user_is_disconnected_from_all_connections(server: LocalServer, reconnect: bool) -> None:
    first, _ = open_cable(server)
    second, _ = open_cable(server)
    other, _ = open_cable(server)
    user = '{"user_id":"15"}'
    with first, second, other, server.connect("room:7") as simple:
        connections = server.call(server.server.cable.everybody)
        for connection, identifier in zip(connections, (user, user, '{"user_id":15}', user), strict=True):
            server.call(server.server.hub.sessions.add, identifier, connection)
        # What was posted before comes first.
        assert send(server, {"stream": "room:7", "data": "1"})[0] == 201
        assert send(server, {"command": "disconnect", "payload": {"identifier": user, "reconnect": reconnect}}) == (
            201, "0", b"")
        reason = "closed remotely" if reconnect else "closed remotely for good"
        for client in (first, second):
            client.expect({"identifier": ROOM, "message": 1},
                          {"type": "disconnect", "reason": "remote", "reconnect": reconnect})
            assert client.read_close() == (1000, reason)
        simple.expect(message("room:7", "1"))
        assert simple.read_close() == (1000, reason)
        assert send(server, {"stream": "room:7", "data": "2"})[0] == 201
        other.expect({"identifier": ROOM, "message": 1}, {"identifier": ROOM, "message": 2})
        assert server.call(lambda: len(server.server.hub.sessions)) == 1


def test_a_user_is_disconnected_from_the_middleware() -> None:
    async def nothing(scope: object, receive: object, send: object) -> None:
        pass

    app = CableMiddleware(nothing, secret=SECRET, auth="jwt")
    sent: list[MutableMapping[str, Any]] = []
    user = '{"user_id":"15"}'
    query = b"jid=" + issue({"exp": 2**37, "ext": user}, SECRET).encode()
    scope = {"type": "websocket", "http_version": "1.1", "path": "/cable", "query_string": query, "subprotocols": [],
             "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80)}
    body = json.dumps({"command": "disconnect", "payload": {"identifier": user, "reconnect": False}}).encode()

    async def session() -> None:
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        events.put_nowait({"type": "websocket.connect"})
        accepted = asyncio.Event()

        async def send(event: MutableMapping[str, Any]) -> None:
            sent.append(event)
            accepted.set()
            if event["type"] == "websocket.close":
                events.put_nowait({"type": "websocket.disconnect", "code": 1000})

        running = asyncio.ensure_future(app(scope, events.get, send))
        await accepted.wait()
        while not (len(app._cable.hub.sessions) or running.done()):  # noqa: ASYNC110 (nobody tells of it)
            await asyncio.sleep(0)
        with app._cable:
            assert at_once(app._cable.endpoints.publish(body, asked(post(body, BEARER)))).status == 201
        await asyncio.wait_for(running, 20)

    asyncio.run(session())
    assert [event["type"] for event in sent] == ["websocket.accept", "websocket.close"]
    assert (sent[1]["code"], sent[1]["reason"]) == (1000, "closed remotely for good")
    assert len(app._cable.hub.sessions) == 0
