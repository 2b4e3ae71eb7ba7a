"""The middleware in an application: what reaches which of them, its options, and servers at their worst. What clients
see of it is in test_scenarios.py."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient
from websockets.sync.client import connect

from fastcable import BadData, BadStream, Refused, TooLarge
from fastcable._texts import TextGroup
from fastcable.asgi import CableMiddleware
from fastcable.asgi.http import Peer, path_of
from fastcable.asgi.types import Event, Receive, Scope, Send
from fastcable.dialects._simple import SimpleDialect
from fastcable.settings import SettingsError
from tests.harness import PATIENCE, ApplicationProcess, message, subscribed

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORT", raising=False)


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError(f"the application was called: {scope}")


# ---------------------------------------------------------------------------------------------------------------------
# The application behind it


@pytest.fixture(scope="module", params=["uvicorn", "hypercorn"])
def server(request: pytest.FixtureRequest) -> Iterator[ApplicationProcess]:
    with ApplicationProcess(request.param, "tests.peers.application:app") as server:
        yield server


def test_everything_else_reaches_the_application(server: ApplicationProcess) -> None:
    assert server.request("GET", "/")[0::2] == (200, b"GET /, started: True")
    assert server.request("POST", "/", b"body")[0::2] == (200, b"POST /, started: True")
    assert server.request("GET", "/health")[0::2] == (200, b"GET /health, started: True")
    assert server.request("GET", "/cable/")[0] == 404
    with connect(f"ws://127.0.0.1:{server.port}/echo") as client:
        client.send("hello")
        assert client.recv(PATIENCE) == "hello"


def test_the_application_publishes_from_its_loop_and_from_a_thread(server: ApplicationProcess) -> None:
    with server.connect("s") as first, server.connect("s") as second:
        assert server.request("POST", "/publish/s", b'{"n":1}')[0::2] == (200, b'{"subscribers":2}')
        assert server.request("GET", "/thread/s")[0::2] == (200, b'{"subscribers":2}')
        assert server.request("GET", "/http/s")[0::2] == (200, b'{"subscribers":2}')
        assert server.request("GET", "/http-in-a-thread/s")[0::2] == (200, b'{"subscribers":2}')
        for client in (first, second):
            client.expect(message("s", {"n": 1}), message("s", "from a thread"))
            client.expect(message("s", "over HTTP"), message("s", "over HTTP, from a thread"))


def test_importing_it_loads_neither_uvloop_nor_the_server() -> None:
    code = "import sys, fastcable.asgi; print(sorted({'uvloop', 'fastcable.server'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


# ---------------------------------------------------------------------------------------------------------------------
# Starlette's test client, which has an event loop for each connection, in a thread of its own


@pytest.fixture
def client() -> TestClient:
    return TestClient(CableMiddleware(nothing), client=("127.0.0.1", 50000))


def test_a_test_client_subscribes_and_publishes(client: TestClient) -> None:
    with client.websocket_connect("/cable") as first, client.websocket_connect("/cable") as second:
        for socket in (first, second):
            socket.send_json({"type": "subscribe", "stream": "s"})
            assert socket.receive_json() == subscribed("s")
        assert client.post("/_broadcast", json={"stream": "s", "data": 1}).json() == {"subscribers": 2}
        app = client.app
        assert isinstance(app, CableMiddleware)
        assert app.broadcast("s", 2) == 2
        for socket in (first, second):
            assert [socket.receive_json(), socket.receive_json()] == [message("s", 1), message("s", 2)]
    assert app.broadcast("s", 3) == 0


def test_a_client_that_has_no_address_of_this_machine_may_not_publish() -> None:
    answer = TestClient(CableMiddleware(nothing)).post("/_broadcast", json={"stream": "s", "data": 1})
    assert answer.status_code == 403
    assert "only this machine may publish" in answer.json()["error"]


def test_it_can_be_mounted_below_a_path() -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("page")(scope, receive, send)

    mounted = CableMiddleware(page)
    client = TestClient(Starlette(routes=[Mount("/live", mounted)]), client=("127.0.0.1", 50000))
    with client.websocket_connect("/live/cable") as socket:
        socket.send_json({"type": "subscribe", "stream": "s"})
        assert socket.receive_json() == subscribed("s")
        assert client.post("/live/_broadcast", json={"stream": "s", "data": 1}).json() == {"subscribers": 1}
        assert client.get("/live/_streams", params={"stream": "s"}).json() == {"subscribers": 1}
    assert client.get("/live/other").text == "page"


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ({"path": "/cable", "raw_path": b"/cable", "root_path": ""}, b"/cable"),
        ({"path": "/cable"}, b"/cable"),
        ({"path": "/cable", "raw_path": b"/%63able"}, b"/%63able"),
        ({"path": "/app/cable", "raw_path": b"/app/cable", "root_path": "/app"}, b"/cable"),
        ({"path": "/cable", "raw_path": b"/cable", "root_path": "/app"}, b"/cable"),  # as older servers have it
        ({"path": "/apple/cable", "raw_path": b"/apple/cable", "root_path": "/app"}, b"/apple/cable"),
        ({"path": "/app", "raw_path": b"/app", "root_path": "/app"}, b"/app"),
    ],
)
def test_the_path_is_taken_as_it_came_less_the_root_path(scope: Scope, path: bytes) -> None:
    assert path_of(scope) == path


@pytest.mark.parametrize(
    ("client", "server", "loopback"),
    [
        (("127.0.0.1", 1), ("127.0.0.1", 80), True),
        (("127.8.9.1", 1), None, True),
        (("::1", 1), None, True),
        (("::ffff:127.0.0.1", 1), None, True),
        (("10.0.0.1", 1), ("10.0.0.2", 80), False),
        (None, ("/run/app.sock", None), True),
        (None, ("127.0.0.1", 80), False),
        (None, None, False),
        (("testclient", 1), ("testserver", 80), False),
    ],
)
def test_who_is_on_this_machine(client: object, server: object, loopback: bool) -> None:
    assert Peer({"client": client, "server": server}).is_loopback() is loopback


# ---------------------------------------------------------------------------------------------------------------------
# Options and publishing


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_mesage_size": 1}, "max_mesage_size: unknown option (did you mean max_message_size?)"),
        ({"port": 3000}, "port: unknown option (only fastcable serve has it)"),
        ({"idle_timeout": 1}, "idle_timeout: unknown option (only fastcable serve has it)"),
        ({"max_errors": "32"}, "max_errors: expected a whole number, got a string"),
        ({"cable_path": 8.5}, "cable_path: expected a string, got 8.5"),
        ({"cable_path": b"/cable"}, "cable_path: expected a string, got a bytes"),
        ({"max_errors": -1}, "max_errors: must be 0 to 2147483647, got -1"),
        ({"cable_path": "cable"}, "cable_path: must start with /, got 'cable'"),
        ({"cable_path": "/_broadcast"}, "cable_path: cable_path and broadcast_path must differ"),
        ({"broadcast_path": "/fastcable.js"},
         "broadcast_path: /fastcable.js is taken, fastcable serves something else there"),
        ({"allowed_origins": ["example.com"]},
         "allowed_origins: expected SCHEME://HOST[:PORT] without path, such as https://example.com or "
         "https://*.example.com, got 'example.com'"),
        ({"channels": []}, "channels: expected tables such as [channels.Scores]"),
        ({"channels": {"Room": {"stream": "room:{id"}}},
         "channels.Room.stream: a brace without its counterpart"),
        ({"slow_consumer": "wait"}, "slow_consumer: expected drop, latest or close, got 'wait'"),
    ],
    ids=str,
)
def test_a_bad_option_is_told_in_one_line(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(SettingsError) as error:
        CableMiddleware(nothing, **options)
    assert str(error.value) == f"CableMiddleware: {complaint}"


def test_options_come_from_arguments_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    variables = {"MAX_ERRORS": "5", "MAX_BATCH": "7", "BROADCAST_KEY": "k", "PORT": "x", "MAX_BACH": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"FASTCABLE_{name}", value)
    monkeypatch.setenv("PORT", "not ours")
    with caplog.at_level(logging.WARNING, "fastcable"):
        app = CableMiddleware(
            nothing, max_errors=6, max_batch=None, max_message_size="1KiB", allowed_origins=("https://a.example",))
    settings = app._cable.settings
    assert (settings.max_errors, settings.max_batch, settings.broadcast_key) == (6, 7, "k")
    assert (settings.max_message_size, settings.allowed_origins) == (1024, ("https://a.example",))
    assert caplog.messages == ["FASTCABLE_MAX_BACH: unknown variable (did you mean FASTCABLE_MAX_BATCH?)"]


def test_channels_are_tables_as_in_the_file(caplog: pytest.LogCaptureFixture) -> None:
    tables = {"Room": {"stream": "room:{id}", "public": True}, "Staff": {"stream": "staff"}}
    app = CableMiddleware(nothing, channels=tables)
    assert caplog.messages == ["channels.Staff is not public: nobody may subscribe to it (those who have a token may)"]
    with TestClient(app).websocket_connect("/cable", ["actioncable-v1-json"]) as socket:
        assert socket.receive_json()["type"] == "welcome"
        for identifier, answer in (
            ('{"channel":"Room","id":7}', "confirm_subscription"), ('{"channel":"Staff"}', "reject_subscription")
        ):
            socket.send_json({"command": "subscribe", "identifier": identifier})
            assert socket.receive_json() == {"identifier": identifier, "type": answer}
        assert app.broadcast("room:7", "hello") == 1
        assert socket.receive_json() == {"identifier": '{"channel":"Room","id":7}', "message": "hello"}


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCABLE_MAX_ERRORS", "many")
    with pytest.raises(SettingsError, match=r"^FASTCABLE_MAX_ERRORS: expected a whole number, got 'many'$"):
        CableMiddleware(nothing)


def test_what_cannot_be_broadcast_is_an_error() -> None:
    app = CableMiddleware(nothing, max_retained_bytes=300, max_broadcast_size=100)
    with pytest.raises(BadStream, match="stream must not be empty"):
        app.broadcast("", 1)
    with pytest.raises(BadData):
        app.broadcast("s", object())
    with pytest.raises(Refused, match=r"^400 exclude must be a string"):
        app.broadcast("s", 1, exclude=1)  # type: ignore[arg-type]
    assert app.broadcast("s", "x" * 41, retain=True) == 0
    with pytest.raises(TooLarge, match=r"^413 data is too large to be retained: max_retained_bytes is 300$"):
        app.broadcast("s", "x" * 42, retain=True)
    assert app.broadcast("s", "x" * (100 - len('{"stream":"s","data":""}'))) == 0
    with pytest.raises(TooLarge, match=r"^413 body is larger than max_broadcast_size \(100 bytes\)$"):
        app.broadcast("s", "x" * (101 - len('{"stream":"s","data":""}')))


# ---------------------------------------------------------------------------------------------------------------------
# A server that does what it is told, wrong things too


class Server:
    """An ASGI server for one WebSocket, in this event loop. While `gate` is closed, `send` waits."""

    def __init__(self, app: CableMiddleware) -> None:
        self.app = app
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.received = 0
        self.sent: asyncio.Queue[Event] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def receive(self) -> Event:
        event = await self.events.get()
        self.received += 1
        return event

    async def send(self, event: Event) -> None:
        if self.failure is not None:
            raise self.failure
        await self.gate.wait()
        self.sent.put_nowait(event)

    async def open(self, **scope: object) -> asyncio.Task[None]:
        """Connect; the task that serves it."""
        self.events.put_nowait({"type": "websocket.connect"})
        basics = {"type": "websocket", "path": "/cable", "headers": [], "http_version": "1.1", "subprotocols": []}
        self.task = asyncio.create_task(self._run({**basics, **scope}))
        return self.task

    async def _run(self, scope: Scope) -> None:
        await self.app(scope, self.receive, self.send)

    def command(self, **fields: object) -> None:
        self.events.put_nowait({"type": "websocket.receive", "text": json.dumps(fields)})

    async def next(self) -> Event:
        return await asyncio.wait_for(self.sent.get(), PATIENCE)

    async def next_text(self) -> Any:
        return json.loads((await self.next())["text"])

    async def subscribe(self, stream: str) -> None:
        self.command(type="subscribe", stream=stream)
        assert await self.next_text() == subscribed(stream)

    async def block(self, stream: str) -> None:
        """Have the writer wait with one message."""
        self.gate.clear()
        self.app.broadcast(stream, "the one that waits")
        for _ in range(4):
            await asyncio.sleep(0)

    async def end(self) -> None:
        self.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(self.task, PATIENCE)


def scenario(**options: object) -> Callable[[Callable[[Server], Awaitable[None]]], Callable[[], None]]:
    """A test with a connection that is subscribed to "s"."""

    def decorate(test: Callable[[Server], Awaitable[None]]) -> Callable[[], None]:
        async def run() -> None:
            server = Server(CableMiddleware(nothing, **options))
            await server.open()
            assert await server.next() == {"type": "websocket.accept", "subprotocol": None}
            await server.subscribe("s")
            await test(server)
            server.gate.set()
            if not server.task.done():
                await server.end()
            assert server.app.broadcast("s", "nobody is left") == 0

        def wrapper() -> None:
            asyncio.run(run())

        wrapper.__name__ = test.__name__
        return wrapper

    return decorate


@scenario(max_pending_messages=3)
async def test_a_burst_is_no_slow_consumer(server: Server) -> None:
    for number in range(100):
        server.app.broadcast("s", number)
    assert [await server.next_text() for _ in range(100)] == [message("s", number) for number in range(100)]


@scenario(max_pending_messages=3)
async def test_while_the_server_makes_us_wait_the_limit_holds(server: Server) -> None:
    for extra in (-1, 0, 1):
        await server.block("s")
        for number in range(3 + extra):
            server.app.broadcast("s", number)
        server.gate.set()
        assert await server.next_text() == message("s", "the one that waits")
        for number in range(min(3 + extra, 3)):
            assert await server.next_text() == message("s", number)
        if extra == 1:
            assert await server.next_text() == {"type": "gap", "stream": "s", "missed": 1}
    server.app.broadcast("s", "on it goes")
    assert await server.next_text() == message("s", "on it goes")


@scenario(max_pending_messages=3, slow_consumer="close", close_timeout=0.1)
async def test_a_slow_client_that_takes_no_close_either_is_let_go(server: Server) -> None:
    await server.block("s")
    for number in range(4):
        server.app.broadcast("s", number)
    assert server.app.broadcast("s", "nobody is left") == 0
    await asyncio.wait_for(server.task, PATIENCE)
    assert server.sent.empty()


@scenario(max_pending_messages=4)
async def test_who_does_not_read_the_answers_is_not_read(server: Server) -> None:
    await server.block("s")
    received = server.received
    for number in range(20):
        server.command(type="subscribe", stream=str(number))
    for _ in range(100):
        await asyncio.sleep(0)
    assert server.received - received == 4
    server.gate.set()
    assert await server.next_text() == message("s", "the one that waits")
    assert [await server.next_text() for _ in range(20)] == [subscribed(str(number)) for number in range(20)]


@scenario()
async def test_a_server_that_takes_nothing_more_ends_the_connection(server: Server) -> None:
    server.failure = OSError("gone")
    server.app.broadcast("s", 1)
    await asyncio.wait_for(server.task, PATIENCE)


@scenario()
async def test_a_disconnect_ends_a_connection_whose_writer_waits(server: Server) -> None:
    await server.block("s")
    await server.end()


@scenario()
async def test_a_server_that_cancels_is_asked_to_close(server: Server) -> None:
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.task
    assert await server.next() == {"type": "websocket.close", "code": 1001, "reason": "server stopping"}


@scenario()
async def test_what_fails_within_is_logged_and_closes(server: Server) -> None:
    class Failing(SimpleDialect):
        def received(self, *arguments: object) -> None:
            raise RuntimeError("on purpose")

    class Records(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    records: list[str] = []
    handler = Records()
    logging.getLogger("fastcable").addHandler(handler)
    try:
        other = Server(server.app)
        dialects = server.app._cable.dialects
        dialects["default"], kept = Failing(server.app._cable.hub, TextGroup, 0), dialects["default"]
        await other.open()
        await other.next()
        dialects["default"] = kept
        other.command(type="pong")
        assert await other.next() == {"type": "websocket.close", "code": 1011, "reason": "internal error"}
        await asyncio.wait_for(other.task, PATIENCE)
    finally:
        logging.getLogger("fastcable").removeHandler(handler)
    assert records == ["a connection failed"]


def test_a_server_without_the_extension_is_asked_to_close() -> None:
    async def run() -> None:
        server = Server(CableMiddleware(nothing, allowed_origins=["https://a.example"]))
        await server.open(headers=[(b"origin", b"https://b.example")])
        await asyncio.wait_for(server.task, PATIENCE)
        assert await server.next() == {"type": "websocket.close"}

    asyncio.run(run())


def test_a_server_that_takes_no_websockets_is_told_so() -> None:
    client = TestClient(CableMiddleware(nothing))
    answer = client.get("/cable", headers={
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    assert answer.status_code == 501
    assert answer.json()["error"].startswith("this ASGI server takes no WebSockets")


def test_many_threads_publish_at_once_and_nothing_is_lost() -> None:
    async def run() -> None:
        server = Server(CableMiddleware(nothing, max_pending_messages=1))
        await server.open()
        await server.next()
        await server.subscribe("s")

        def publish(thread: int) -> None:
            for number in range(200):
                server.app.broadcast("s", [thread, number])

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        received = [(await server.next_text())["data"] for _ in range(800)]
        for thread in threads:
            thread.join()
        for number in range(4):
            assert [data for data in received if data[0] == number] == [[number, each] for each in range(200)]
        await server.end()

    asyncio.run(run())
