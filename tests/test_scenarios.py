"""Development and production work identically: the same scenarios against `fastcable serve`, and against the
middleware in an application under uvicorn and under hypercorn. Options come from the environment, which all of them
read. Frames and deadlines, which are the ASGI server's own, are left out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from fastcable.signing import sign
from fastcable.tokens import issue
from tests.harness import (
    CABLE_UPGRADE,
    CLOSE,
    PATIENCE,
    TEXT,
    UPGRADE,
    ApplicationProcess,
    Client,
    ServerProcess,
    message,
    subscribed,
)

BINARY = 2
SECRET = "0123456789abcdef" * 4
SERVERS = ("serve", "uvicorn", "hypercorn")
CLOSED_AT_STOP = {
    "serve": (1001, "server stopping"),
    "uvicorn": (1012, ""),  # its own, and the same for all applications
    "hypercorn": (1001, "server stopping"),
}

Start = Callable[..., ServerProcess]


def launch(name: str, **options: object) -> ServerProcess:
    """Start a server with these options."""
    env = {f"FASTCABLE_{option.upper()}": str(value) for option, value in options.items()}
    if name == "serve":
        return ServerProcess(env=env)
    return ApplicationProcess(name, "tests.peers.application:app", env=env)


@pytest.fixture(scope="module", params=SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def start(name: str) -> Iterator[Start]:
    """Starts servers, each once for the whole module: scenarios use streams of their own."""
    running: dict[frozenset[tuple[str, object]], ServerProcess] = {}
    with ExitStack() as stack:

        def start(**options: object) -> ServerProcess:
            key = frozenset(options.items())
            if key not in running:
                running[key] = stack.enter_context(launch(name, **options))
            return running[key]

        yield start


@pytest.fixture
def server(start: Start) -> ServerProcess:
    return start()


@pytest.fixture
def strict(start: Start) -> ServerProcess:
    """A server with low limits."""
    return start(
        max_message_size=200, max_errors=3, max_subscriptions=2, max_batch=3, max_broadcast_size=1000,
        max_retained_bytes=600, allowed_origins="https://good.example,https://*.good.example")


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def complaint(reason: str, **stream: str) -> dict[str, object]:
    return {"type": "error", **stream, "reason": reason}


@contextmanager
def slow_client(server: ServerProcess, stream: str) -> Iterator[Client]:
    """A client that does not read, with as little room for what is sent to it as there can be."""
    with server.connect(stream, receive_buffer=4096) as client:
        yield client


# ---------------------------------------------------------------------------------------------------------------------
# Commands and delivery


def test_a_message_reaches_the_subscribers_of_its_stream_byte_for_byte(server: ServerProcess, stream: str) -> None:
    with server.connect(stream) as first, server.connect(stream) as second, server.connect("another") as other:
        body = b'{"data": {"b" : 12345678901234567890123, "a":[1.50, "\\u00e9"]},"stream":"%b"}' % stream.encode()
        assert server.post(body) == (200, {"subscribers": 2})
        expected = (
            b'{"type":"message","stream":"%b","data":{"b" : 12345678901234567890123, "a":[1.50, "\\u00e9"]}}'
            % stream.encode())
        assert [first.read_frame(), second.read_frame()] == [(TEXT, expected)] * 2
        server.post({"stream": "another", "data": None})
        other.expect(message("another", None))


def test_messages_arrive_in_the_order_in_which_they_were_posted(server: ServerProcess, stream: str) -> None:
    with server.connect(stream) as client:
        for number in range(0, 100, 10):
            server.post({"stream": stream, "data": number})
            server.post([{"stream": stream, "data": number + more} for more in range(1, 10)])
        client.expect(*(message(stream, number) for number in range(100)))


def test_a_burst_reaches_a_client_that_reads_whole(server: ServerProcess, stream: str) -> None:
    with server.connect(stream) as client:
        batch = [{"stream": stream, "data": number} for number in range(1000)]
        assert server.post(batch) == (200, {"subscribers": 1000})
        client.expect(*(message(stream, number) for number in range(1000)))


def test_a_repeated_subscribe_is_confirmed_and_delivers_once(server: ServerProcess, stream: str) -> None:
    with server.connect(stream) as client:
        client.subscribe(stream)
        assert server.post({"stream": stream, "data": 1}) == (200, {"subscribers": 1})
        server.post({"stream": stream, "data": 2})
        client.expect(message(stream, 1), message(stream, 2))


def test_after_unsubscribe_nothing_arrives(server: ServerProcess, stream: str) -> None:
    with server.connect(stream) as client:
        server.post({"stream": stream, "data": "before"})
        client.unsubscribe(stream)
        client.unsubscribe("never subscribed")
        client.command(type="subscribe", stream="fence")
        client.expect(message(stream, "before"), subscribed("fence"))
        assert server.post({"stream": stream, "data": "after"}) == (200, {"subscribers": 0})
        client.subscribe(stream)
        server.post({"stream": stream, "data": "again"})
        client.expect(message(stream, "again"))


def test_commands_are_carried_out_in_order(server: ServerProcess, stream: str) -> None:
    with server.connect() as client:
        for kind in ("subscribe", "unsubscribe") * 20:
            client.command(type=kind, stream=stream)
        client.command(type="subscribe", stream=f"{stream} 2")
        client.expect(*[subscribed(stream)] * 20, subscribed(f"{stream} 2"))
        assert server.post({"stream": stream, "data": 1}) == (200, {"subscribers": 0})
        assert server.post({"stream": f"{stream} 2", "data": 1}) == (200, {"subscribers": 1})


def test_unknown_members_of_a_command_are_ignored_and_pongs_not_answered(server: ServerProcess, stream: str) -> None:
    with server.connect() as client:
        client.command(type="pong")
        client.command(stream=stream, more=[1], type="subscribe")
        client.expect(subscribed(stream))


def test_a_command_may_come_in_fragments(server: ServerProcess, stream: str) -> None:
    with server.connect() as client:
        command = json.dumps({"type": "subscribe", "stream": stream}).encode()
        client.send_frame(TEXT, command[:10], fin=False)
        client.send_frame(0, command[10:])
        client.expect(subscribed(stream))


def test_a_stream_may_have_any_characters(server: ServerProcess) -> None:
    for stream in ("é", "a b/c", '"', "\U0001f600", "x" * 255):
        with server.connect(stream) as client:
            server.post({"stream": stream, "data": stream})
            client.expect(message(stream, stream))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b"", complaint("not valid JSON")),
        (b"{", complaint("not valid JSON")),
        (b"[]", complaint("a command must be a JSON object")),
        (b"null", complaint("a command must be a JSON object")),
        (b'{"type":"subscribe"}', complaint("stream must be a string")),
        (b'{"type":"subscribe","stream":""}', complaint("stream must not be empty")),
        (b'{"type":"subscribe","stream":"a\\u0000"}',
         complaint("stream must not contain control characters", stream="a\0")),
        (b'{"type":"unsubscribe","stream":1}', complaint("stream must be a string")),
        (b'{"type":"subscribe","stream":"%b"}' % (b"x" * 256),
         complaint("stream must be at most 255 bytes of UTF-8", stream="x" * 256)),
    ],
)
def test_a_bad_command_is_answered_with_an_error(
    server: ServerProcess, text: bytes, answer: dict[str, object]
) -> None:
    with server.connect() as client:
        client.send_frame(TEXT, text)
        client.expect(answer)
        client.subscribe("alive")


def test_many_clients_come_and_go(server: ServerProcess, stream: str) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect(stream)) for _ in range(30)]
        for client in clients[::2]:
            client.close()
        for client in clients[1::4]:
            client.reset()
        staying = clients[3::4]
        while (answer := server.post({"stream": stream, "data": "probe"})) != (200, {"subscribers": len(staying)}):
            assert answer[0] == 200
        server.post({"stream": stream, "data": "last"})
        for client in staying:
            while (received := client.receive()) != message(stream, "last"):
                assert received == message(stream, "probe")


def test_an_ordinary_client_subscribes_and_says_goodbye(server: ServerProcess, stream: str) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/cable", subprotocols=None, close_timeout=PATIENCE) as client:
        client.send(json.dumps({"type": "subscribe", "stream": stream}))
        assert json.loads(client.recv(PATIENCE)) == subscribed(stream)
        server.post({"stream": stream, "data": "x" * 100_000})
        assert json.loads(client.recv(PATIENCE)) == message(stream, "x" * 100_000)
    assert client.close_code == 1000


# ---------------------------------------------------------------------------------------------------------------------
# Limits and refusals


def test_max_errors_bad_commands_are_answered_and_one_more_closes(strict: ServerProcess) -> None:
    with strict.connect() as client:
        for _ in range(2):
            for _ in range(3):
                client.command(type="nonsense")
                assert client.receive()["type"] == "error"
            client.command(type="pong")
        for _ in range(4):
            client.send_frame(TEXT, b"nonsense")
        client.expect(*[complaint("not valid JSON")] * 4)
        assert client.read_close() == (1008, "too many bad commands")


def test_max_subscriptions_refuses_one_more_and_that_is_no_bad_command(strict: ServerProcess, stream: str) -> None:
    with strict.connect("a", "b") as client:
        for _ in range(5):
            client.command(type="subscribe", stream=stream)
            client.expect(complaint("too many subscriptions", stream=stream))
        client.unsubscribe("a")
        client.subscribe(stream)


@pytest.mark.parametrize(("size", "taken"), [(199, True), (200, True), (201, False)])
def test_max_message_size(strict: ServerProcess, size: int, taken: bool) -> None:
    with strict.connect() as client:
        command = json.dumps({"type": "subscribe", "stream": "é"}, ensure_ascii=False).encode()
        client.send_frame(TEXT, command.ljust(size))
        if taken:
            client.expect(subscribed("é"))
        else:
            assert client.read_close() == (1009, "message too large")


def test_binary_messages_are_not_taken(server: ServerProcess) -> None:
    with server.connect("s") as client:
        client.send_frame(BINARY, b'{"type":"subscribe","stream":"x"}')
        assert client.read_close() == (1003, "text frames only")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("https://good.example", True),
        ("https://a.b.good.example", True),
        ("http://good.example", False),
        ("https://evil.example", False),
        ("null", False),
    ],
)
def test_allowed_origins(strict: ServerProcess, origin: str | None, allowed: bool) -> None:
    with ExitStack() as stack:
        if not allowed:
            refusal = stack.enter_context(pytest.raises(InvalidStatus))
        headers = {"Origin": origin} if origin else {}
        stack.enter_context(connect(f"ws://127.0.0.1:{strict.port}/cable", additional_headers=headers))
    if not allowed:
        assert refusal.value.response.status_code == 403
        body = bytes(refusal.value.response.body or b"")
        assert json.loads(body) == {"error": "this Origin is not in allowed_origins"}


def test_max_connections(start: Start) -> None:
    server = start(max_connections=2, slow_consumer="close", max_pending_messages=5)
    with server.connect(), server.connect():
        with pytest.raises(InvalidStatus) as refusal:
            connect(f"ws://127.0.0.1:{server.port}/cable").close()
        assert refusal.value.response.status_code == 503
        assert refusal.value.response.headers["Retry-After"] == "5"
        assert json.loads(bytes(refusal.value.response.body or b"")) == {"error": "no more connections are taken"}


def test_subprotocols_that_are_not_ours_are_not_confirmed(server: ServerProcess) -> None:
    with Client(server.port) as client:
        head = client.upgrade(UPGRADE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat, superchat\r\n\r\n"))
        assert b"sec-websocket-protocol" not in head.lower()
        assert client.receive()["type"] == "welcome"  # whoever offers some is taken for a client of Action Cable


def test_clients_of_action_cable_are_welcomed_pinged_answered_and_told_of_the_end(start: Start) -> None:
    server = start(actioncable_ping_interval=1)
    identifier = '{"channel":"NoSuchChannel"}'
    with Client(server.port) as client:
        head = client.upgrade(CABLE_UPGRADE)
        assert b"\r\nsec-websocket-protocol: actioncable-v1-json\r\n" in head.lower()
        welcome = client.receive()
        assert welcome == {"type": "welcome", "sid": welcome["sid"]}
        assert welcome["sid"]
        client.command(command="subscribe", identifier=identifier)
        client.expect({"identifier": identifier, "type": "reject_subscription"})
        client.command(type="subscribe", stream="s")
        pings = [client.receive() for _ in range(2)]
        assert [ping["type"] for ping in pings] == ["ping", "ping"]
        assert pings[0]["message"] < pings[1]["message"]
        client.send_frame(BINARY, b"{}")
        client.expect({"type": "disconnect", "reason": "invalid_request", "reconnect": True})
        assert client.read_close() == (1003, "text frames only")


def test_action_cable_can_be_the_default(start: Start) -> None:
    with Client(start(default_protocol="actioncable").port) as client:
        client.upgrade()
        assert client.receive()["type"] == "welcome"


def test_signed_streams(start: Start) -> None:
    server = start(signed_streams="required", turbo_secret=SECRET)
    name = sign("chat/7", SECRET.encode())
    with server.connect(name) as client:
        assert server.post({"stream": "chat/7", "data": 1}) == (200, {"subscribers": 1})
        client.expect(message(name, 1))
        for unsigned in "chat/7", name[:-1]:
            client.command(type="subscribe", stream=unsigned)
            client.expect(complaint("stream must be a signed name", stream=unsigned))


def upgrade_with(jid: str) -> bytes:
    return UPGRADE.replace(b"/cable", b"/cable?jid=" + jid.encode())


def test_tokens_say_who_connects_and_to_what(start: Start) -> None:
    server = start(auth="jwt", jwt_secret=SECRET)
    with Client(server.port) as client:
        client.upgrade(upgrade_with(issue({"exp": time.time() + 3600, "streams": ["mine:*"]}, SECRET)))
        client.subscribe("mine:1")
        client.command(type="subscribe", stream="yours:1")
        client.expect(complaint("not allowed", stream="yours:1"))
        assert server.post({"stream": "mine:1", "data": 1}) == (200, {"subscribers": 1})
        client.expect(message("mine:1", 1))


@pytest.mark.parametrize(("claims", "reason"), [({}, "unauthorized"), ({"exp": 1}, "token expired")])
def test_clients_without_a_valid_token_are_told_why(start: Start, claims: dict[str, object], reason: str) -> None:
    server = start(auth="jwt", jwt_secret=SECRET)
    jid = b"X-JID: %b\r\n\r\n" % issue(claims, SECRET).encode()
    with Client(server.port) as client:
        client.upgrade(UPGRADE[:-2] + jid)
        client.command(type="subscribe", stream="news")
        assert client.read_close() == (1008, reason)
    with Client(server.port) as client:
        client.upgrade(CABLE_UPGRADE[:-2] + jid)
        client.expect({"type": "disconnect", "reason": reason.replace(" ", "_"), "reconnect": False})
        assert client.read_close() == (1008, reason)
    assert server.request("GET", "/_streams?stream=news")[2] == b'{"subscribers":0}'


def test_a_token_that_expires_ends_the_connection(start: Start) -> None:
    server = start(auth="jwt", jwt_secret=SECRET)
    with Client(server.port) as client:
        client.upgrade(upgrade_with(issue({"exp": time.time() + 1}, SECRET)))
        client.subscribe("news")
        while (event := client.read_frame()) == (TEXT, b'{"type":"ping"}'):
            pass
        assert event == (CLOSE, b"\x03\xf0token expired")
    assert server.request("GET", "/_streams?stream=news")[2] == b'{"subscribers":0}'


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_plain_request_for_the_cable_is_told_what_is_missing(server: ServerProcess, method: str) -> None:
    status, headers, body = server.request(method, "/cable")
    if method == "GET":
        assert (status, headers["Upgrade"]) == (426, "websocket")
        assert json.loads(body)["error"].startswith("this is a WebSocket endpoint")
    else:
        assert (status, headers["Allow"]) == (405, "GET")


# ---------------------------------------------------------------------------------------------------------------------
# Broadcasts


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({}, 200, ""),
        ({"Origin": "http://localhost:5173"}, 200, ""),
        ({"Origin": "http://127.0.0.1"}, 200, ""),
        ({"Origin": "https://evil.example"}, 403, "no page of another host"),
        ({"Origin": "null"}, 403, "no page of another host"),
        ({"Forwarded": "for=1.2.3.4"}, 403, "no forwarded request"),
        ({"X-Forwarded-For": "127.0.0.1"}, 403, "no forwarded request"),
        ({"X-Forwarded-For": "1.2.3.4"}, 403, "no forwarded request"),
        ({"X-Forwarded-Proto": "https"}, 403, "no forwarded request"),
        ({"Content-Type": "text/plain"}, 415, "Content-Type must be application/json"),
        ({"Content-Type": "application/json; charset=utf-8"}, 200, ""),
        ({"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
        ({"Origin": "https://evil.example", "Content-Type": "text/plain"}, 403, "no page of another host"),
    ],
    ids=str,
)
def test_who_may_publish_without_a_key(
    server: ServerProcess, headers: dict[str, str], status: int, reason: str
) -> None:
    answered, answer = server.post({"stream": "s", "data": 1}, **headers)
    assert answered == status
    assert answer == {"subscribers": 0} if status == 200 else reason in answer["error"]


@pytest.mark.parametrize(
    ("credentials", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic sesame"}, 401),
        ({"Authorization": "Bearer sesame"}, 200),
        ({"Authorization": "bearer  sesame ", "X-Forwarded-For": "1.2.3.4", "Origin": "https://evil.example"}, 200),
    ],
    ids=str,
)
def test_with_a_key_only_those_who_send_it_publish(start: Start, credentials: dict[str, str], status: int) -> None:
    server = start(broadcast_key="sesame", ping_interval=0.1)
    answered, answer = server.post({"stream": "s", "data": 1}, **credentials)
    assert answered == status
    if status == 401:
        assert answer == {"error": "Authorization: Bearer with the broadcast_key is required"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "body is empty: a JSON object with stream and data is expected"),
        (b"\xff", "body is not UTF-8"),
        (b"1", "body must be an object with stream and data, or an array of such objects"),
        (b"{}", "stream is missing"),
        (b'{"stream":"s"}', "data is missing"),
        (b'{"stream":1,"data":1}', "stream must be a string"),
        (b'{"stream":"","data":1}', "stream must not be empty"),
        (b'[{"stream":"s","data":1},{"stream":"s"}]', "message 1 of the batch: data is missing"),
        (b'[{"stream":"s","data":1},2]', "message 1 of the batch: must be an object with stream and data"),
    ],
)
def test_a_body_that_is_no_broadcast_is_refused(server: ServerProcess, body: bytes, reason: str) -> None:
    assert server.post(body) == (400, {"error": reason})


def test_a_body_that_is_no_json_is_refused(server: ServerProcess) -> None:
    status, answer = server.post(b'{"stream":"s","data":')
    assert status == 400
    assert answer["error"].startswith("body is not JSON: ")


def test_a_batch_is_accepted_as_a_whole_or_not_at_all(server: ServerProcess, stream: str) -> None:
    with server.connect(stream) as one, server.connect(stream, f"{stream} 2") as both:
        assert server.post([{"stream": stream, "data": 0}, {"data": 1}])[0] == 400
        batch = [{"stream": stream, "data": 1}, {"stream": f"{stream} 2", "data": 2}, {"stream": stream, "data": 3}]
        assert server.post(batch) == (200, {"subscribers": 5})
        one.expect(message(stream, 1), message(stream, 3))
        received = [both.receive() for _ in range(3)]
        assert [each for each in received if each["stream"] == stream] == [message(stream, 1), message(stream, 3)]
        assert message(f"{stream} 2", 2) in received
        assert server.post([]) == (200, {"subscribers": 0})


@pytest.mark.parametrize(("count", "status"), [(2, 200), (3, 200), (4, 413)])
def test_max_batch(strict: ServerProcess, count: int, status: int) -> None:
    answered, answer = strict.post([{"stream": "s", "data": 1}] * count)
    assert answered == status
    if status == 413:
        assert answer == {"error": "a batch has at most max_batch (3) messages, not 4"}


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
@pytest.mark.parametrize(("size", "status"), [(999, 200), (1000, 200), (1001, 413)])
def test_max_broadcast_size(strict: ServerProcess, size: int, status: int, chunked: bool) -> None:
    body = b'{"stream":"s","data":1}'.ljust(size)
    headers = {"Content-Type": "application/json"}
    pieces = iter((body[:500], body[500:]))
    answered, _, answer = strict.request("POST", "/_broadcast", pieces if chunked else body, headers)
    assert answered == status
    if status == 413:
        assert json.loads(answer) == {"error": "body is larger than max_broadcast_size (1000 bytes)"}


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_broadcasts_are_posted(server: ServerProcess, method: str) -> None:
    status, headers, body = server.request(method, "/_broadcast")
    assert (status, headers["Allow"]) == (405, "POST")
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"error": "broadcasts are posted: POST only"}


def test_paths_are_compared_as_they_came(server: ServerProcess) -> None:
    for path in ("/_broadcas%74", "/_broadcast/", "//_broadcast"):
        assert server.request("POST", path, b"{}")[0] in (404, 405)
    assert server.request("POST", "/_broadcast?x=1", b"{}", {"Content-Type": "application/json"})[0] == 400


def test_the_browser_client_is_served(server: ServerProcess) -> None:
    status, headers, body = server.request("GET", "/fastcable.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert b"export" in body
    assert server.request("HEAD", "/fastcable.js")[0::2] == (200, b"")
    assert server.request("GET", "/fastcable.js", None, {"If-None-Match": headers["ETag"]})[0::2] == (304, b"")
    assert server.request("POST", "/fastcable.js")[0] == 405


# ---------------------------------------------------------------------------------------------------------------------
# Retained values, senders, counts


def test_a_new_subscriber_gets_the_retained_value_once(server: ServerProcess, stream: str) -> None:
    with server.connect(stream) as early:
        assert server.post({"stream": stream, "data": 1, "retain": True}) == (200, {"subscribers": 1})
        server.post([{"stream": stream, "data": 2, "retain": True}, {"stream": stream, "data": 3}])
        early.expect(message(stream, 1), message(stream, 2), message(stream, 3))
        with server.connect(stream) as late:
            late.expect(message(stream, 2))
            late.subscribe(stream)
            server.post({"stream": stream, "data": 4})
            late.expect(message(stream, 4))
        server.post({"stream": stream, "data": None, "retain": True})
        early.expect(message(stream, 4), message(stream, None))
        with server.connect(stream) as late:
            server.post({"stream": stream, "data": 5})
            late.expect(message(stream, 5))


def test_max_retained_bytes(strict: ServerProcess, stream: str) -> None:
    body = {"stream": "s", "data": "x" * 400, "retain": True}
    assert strict.post(body) == (413, {"error": "data is too large to be retained: max_retained_bytes is 600"})
    assert strict.post([body]) == (
        413, {"error": "message 0 of the batch: data is too large to be retained: max_retained_bytes is 600"})


def test_a_message_may_exclude_its_sender(server: ServerProcess, stream: str) -> None:
    with server.connect(stream) as sender, server.connect(stream) as other:
        sender.command(type="hello")
        hello = sender.receive()
        assert hello == {"type": "hello", "socket": hello["socket"]}
        sender.command(type="hello")
        sender.expect(hello)
        server.post({"stream": stream, "data": 1, "exclude": hello["socket"]})
        server.post({"stream": stream, "data": 2, "exclude": "nobody"})
        sender.expect(message(stream, 2))
        other.expect(message(stream, 1), message(stream, 2))


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ({"retain": 1}, "retain must be true or false"),
        ({"exclude": None}, "exclude must be a string: the socket id of a client"),
    ],
)
def test_members_of_other_types_are_refused(server: ServerProcess, member: dict[str, object], reason: str) -> None:
    assert server.post({"stream": "s", "data": 1, **member}) == (400, {"error": reason})


def test_subscribers_are_counted(server: ServerProcess) -> None:
    with server.connect("é & é"), server.connect("é & é"):
        assert server.request("GET", "/_streams?stream=%C3%A9+%26%20%C3%A9")[0::2] == (200, b'{"subscribers":2}')
        assert server.request("GET", "/_streams?stream=nobody")[0::2] == (200, b'{"subscribers":0}')
        assert server.request("HEAD", "/_streams?stream=nobody")[0::2] == (200, b"")
        status, _, body = server.request("GET", "/_streams")
        assert (status, json.loads(body)) == (400, {"error": "one stream is expected: ?stream=NAME"})
        status, headers, _ = server.request("POST", "/_streams?stream=s")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        assert server.request("GET", "/_streams?stream=s", None, {"X-Forwarded-For": "1.2.3.4"})[0] == 403


# ---------------------------------------------------------------------------------------------------------------------
# Slow clients, pings, the end


def test_a_slow_client_loses_messages_and_is_told_how_many(start: Start, stream: str) -> None:
    server = start(max_pending_messages=5)
    with slow_client(server, stream) as client, server.connect(stream) as other:
        for number in range(40):
            server.post({"stream": stream, "data": [number, "x" * 200_000]})
            other.expect(message(stream, [number, "x" * 200_000]))
        accounted = missed = 0
        while accounted < 40:
            frame = client.receive()
            if frame["type"] == "gap":
                assert frame == {"type": "gap", "stream": stream, "missed": frame["missed"]}
                missed += frame["missed"]
                accounted += frame["missed"]
            else:
                assert frame["data"][0] == accounted
                accounted += 1
        assert missed > 10
        server.post({"stream": stream, "data": "on it goes"})
        client.expect(message(stream, "on it goes"))


def test_slow_consumer_latest_gets_the_newest_of_each_stream(start: Start, stream: str) -> None:
    server = start(slow_consumer="latest", max_pending_messages=5)
    with slow_client(server, stream) as client:
        client.subscribe(f"{stream} 2")
        for number in range(40):
            server.post({"stream": stream, "data": [number, "x" * 200_000]})
            server.post({"stream": f"{stream} 2", "data": number})
        seen: dict[str, int] = {stream: 0, f"{stream} 2": 0}
        while list(seen.values()) != [40, 40]:
            frame = client.receive()
            if frame["type"] == "gap":
                seen[frame["stream"]] += frame["missed"]
            else:
                number = frame["data"] if isinstance(frame["data"], int) else frame["data"][0]
                assert number == seen[frame["stream"]]
                seen[frame["stream"]] += 1
        assert frame["data"] == 39 or frame["data"][0] == 39
        server.post({"stream": stream, "data": "on it goes"})
        client.expect(message(stream, "on it goes"))


def test_slow_consumer_close_ends_the_connection(start: Start, stream: str) -> None:
    server = start(max_connections=2, slow_consumer="close", max_pending_messages=5)
    with slow_client(server, stream) as client:
        while server.post({"stream": stream, "data": "x" * 200_000})[1]["subscribers"]:
            pass
        received = 0
        while (frame := client.read_frame())[0] == TEXT:
            assert json.loads(frame[1]) == message(stream, "x" * 200_000)
            received += 1
        assert frame == (8, (1013).to_bytes(2, "big") + b"too slow")
        assert received > 0


def test_pings_are_sent_at_intervals(start: Start) -> None:
    with start(broadcast_key="sesame", ping_interval=0.1).connect() as client:
        for _ in range(3):
            assert client.read_frame() == (TEXT, b'{"type":"ping"}')
            client.command(type="pong")  # the server's own would come with a frame's ping, too


def test_at_its_end_the_server_closes_all_clients(name: str, stream: str) -> None:
    with launch(name) as server, server.connect(stream) as client, server.connect() as silent:
        server.process.terminate()
        assert client.read_close() == CLOSED_AT_STOP[name]
        assert silent.read_close() == CLOSED_AT_STOP[name]
        client.close()
        silent.close()
        server.wait()
        assert "fastcable/" not in "".join(server.log)  # as a traceback would have it
