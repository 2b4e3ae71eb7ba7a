"""The HTTP room alone behind a real socket: a site that records, with a clock that the test moves; and a client that
sends exactly the bytes it is given."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, Self, TypeVar

import uvloop

from fastcable._deadlines import Deadlines
from fastcable._endpoints import Endpoints
from fastcable._handshake import Accept
from fastcable._http import HttpProtocol, Site
from fastcable._request import Request
from fastcable.response import Response
from fastcable.settings import Settings

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds after which something that must happen has not happened."""

LINGER_SECONDS = 2.0


def at_once(answer: object) -> Response:
    """What is answered without waiting for a broker."""
    assert isinstance(answer, Response)
    return answer


class RecordingHub:
    """Remembers what was published; every stream has `listeners` subscribers."""

    def __init__(self) -> None:
        self.congested = False
        self.published: list[tuple[str, bytes]] = []
        self.options: list[tuple[bool, str | None]] = []
        self.embedded: list[bool] = []
        self.disconnected: list[tuple[str, bool]] = []
        self.problem: str | None = None
        self.asked: list[str] = []
        self.listeners = 3
        self.broker: Callable[[], asyncio.Future[int]] | None = None
        """Makes what is said to each call, if there is one."""

    def publish(
        self, stream: str, data: bytes, retain: bool = False, exclude: str | None = None, embedded: bool = False
    ) -> asyncio.Future[int] | None:
        self.published.append((stream, data))
        self.options.append((retain, exclude))
        self.embedded.append(embedded)
        return self.broker() if self.broker else None

    def disconnect(self, identifier: str, reconnect: bool) -> asyncio.Future[int] | None:
        self.disconnected.append((identifier, reconnect))
        return self.broker() if self.broker else None

    def elsewhere(self, stream: str) -> asyncio.Future[int] | None:
        return self.broker() if self.broker else None

    def subscribers(self, stream: str) -> int:
        self.asked.append(stream)
        return self.listeners


class Upgraded(asyncio.Protocol):
    """Stands where the WebSocket connection would: remembers what it is fed, after the 101."""

    def __init__(self, transport: asyncio.Transport, request: Request, rest: bytes) -> None:
        self.transport = transport
        self.request = request
        self.received = rest

    def data_received(self, data: bytes) -> None:
        self.received += data


class RecordingSite(Site):
    """A `Site` whose time is `now`, and which leads on to `Upgraded`."""

    def __init__(self, settings: Settings, hub: RecordingHub, *, cable: bool, broadcast: bool, demo: bool) -> None:
        super().__init__(settings, lambda: self.now, Deadlines(LINGER_SECONDS), None, None, 0, 0)
        self.endpoints = Endpoints(settings, hub, cable=cable, broadcast=broadcast, demo=demo)
        self.full = False
        self.room = True
        self.now = 1000.0
        self.open: list[HttpProtocol] = []
        self.upgraded: list[Upgraded] = []
        self.events: list[str] = []

    def opened(self, protocol: HttpProtocol) -> bool:
        self.events.append("opened" if self.room else "no room")
        if self.room:
            self.open.append(protocol)
        return self.room

    def closed(self, protocol: HttpProtocol) -> None:
        self.events.append("closed")
        self.open.remove(protocol)

    def is_full(self) -> bool:
        return self.full

    def accept(self, transport: asyncio.Transport, request: Request, accept: Accept, rest: bytes) -> None:
        self.events.append("accept")
        upgraded = Upgraded(transport, request, rest)
        transport.set_protocol(upgraded)
        transport.write(accept.response)
        self.upgraded.append(upgraded)


class HttpServer:
    """A listener with a `RecordingSite` on a uvloop loop in a thread; keyword arguments are settings."""

    def __init__(
        self, *, cable: bool = True, broadcast: bool = True, demo: bool = False, unix: bool = False, **options: Any
    ) -> None:
        self.hub = RecordingHub()
        self.site = RecordingSite(Settings(**options), self.hub, cable=cable, broadcast=broadcast, demo=demo)
        self.errors: list[dict[str, Any]] = []
        self.protocol: Callable[[Site, Endpoints], HttpProtocol] = HttpProtocol
        self._unix = unix
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self._thread = threading.Thread(target=self._loop.run_forever, name="http")
        self._clients: list[Client] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        for client in self._clients:
            client.close()
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if kind is None:
            assert not self.errors

    async def _start(self) -> None:
        def protocol() -> HttpProtocol:
            return self.protocol(self.site, self.site.endpoints)

        if self._unix:
            self._folder = tempfile.TemporaryDirectory()
            path = os.path.join(self._folder.name, "socket")
            self._server: asyncio.AbstractServer = await self._loop.create_unix_server(protocol, path)
            self.address: Any = path
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            self.address = listener.getsockname()
            self._server = await self._loop.create_server(protocol, sock=listener)

    async def _stop(self) -> None:
        self._server.close()
        for protocol in list(self.site.open):
            protocol.abort()
        for upgraded in self.site.upgraded:
            upgraded.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if self._unix:
            self._folder.cleanup()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the server's thread; what it returns or raises."""
        result: Future[T] = Future()

        def work() -> None:
            try:
                result.set_result(function())
            except BaseException as error:
                result.set_exception(error)

        self._loop.call_soon_threadsafe(work)
        return result.result(PATIENCE)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition, looked at in the server's thread in each turn of its loop, is true."""

        async def wait() -> None:
            while not condition():  # noqa: ASYNC110  (conditions of all kinds, none with an event)
                await asyncio.sleep(0.001)

        self._run(wait())

    def wait_closed(self) -> None:
        """Wait until no HTTP connection is left, in no queue either."""
        site = self.site
        self.wait_until(lambda: not site.open)
        assert not len(site.handshakes) + len(site.keepalives) + len(site.lingering)

    def pass_time(self, seconds: float) -> None:
        """Move the clock and tell the connections whose time is up, as the heartbeat does."""
        self.call(lambda: self._pass_time(seconds))

    def _pass_time(self, seconds: float) -> None:
        site = self.site
        site.now += seconds
        for queue in (site.handshakes, site.keepalives, site.lingering):
            for item in queue.expired(site.now):
                item.deadline_passed(queue)

    def connect(self, *, receive_buffer: int | None = None) -> Client:
        client = Client(self.address, receive_buffer)
        self._clients.append(client)
        return client

    def ask(self, request: bytes, *, body: bool = True) -> Answer:
        """The answer to one request on a connection of its own."""
        client = self.connect()
        client.send(request)
        return client.read_answer(body=body)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    """Names in lower case; lines of the same name are joined."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return "close" in self.headers.get("connection", "")


class Client:
    """A blocking socket that reads the answers of a server."""

    def __init__(self, address: Any, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(address)
        self._buffer = b""

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def end(self) -> None:
        """Send a FIN, go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Hang up without a word: RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(mark)
        return head + mark

    def read_answer(self, *, body: bool = True) -> Answer:
        """The next answer; `body`: it has one, as answers to HEAD and 304 have not."""
        lines = self.read_until(b"\r\n\r\n").decode("ascii").split("\r\n")[:-2]
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        size = int(headers.get("content-length", "0")) if body else 0
        while len(self._buffer) < size:
            self._fill()
        content, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(int(status), headers, content)

    def read_rest(self) -> bytes:
        """Everything up to the server's FIN."""
        while True:
            try:
                self._fill()
            except EOFError:
                rest, self._buffer = self._buffer, b""
                return rest

    def read_eof(self) -> None:
        """The server's FIN must come next."""
        assert self.read_rest() == b""

    def _fill(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise EOFError("the server closed the connection")
        self._buffer += data


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1", host: str | None = "localhost") -> bytes:
    """A request without a body."""
    lines = [f"{method} {path} HTTP/{version}", *([f"Host: {host}"] if host is not None else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body: bytes | str, *headers: str, path: str = "/_broadcast", content_type: str | None = "application/json",
         length: int | str | None = None, version: str = "1.1") -> bytes:
    """A POST whose length is that of `body` unless it is said to be another."""
    data = body.encode() if isinstance(body, str) else body
    types = [f"Content-Type: {content_type}"] if content_type is not None else []
    sizes = [f"Content-Length: {len(data) if length is None else length}"]
    return get(path, *types, *sizes, *headers, method="POST", version=version) + data


def post_chunked(chunks: bytes, *headers: str, path: str = "/_broadcast", version: str = "1.1") -> bytes:
    """A POST with chunks as they are to be sent."""
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked", *headers)
    return get(path, *lines, method="POST", version=version) + chunks


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


UPGRADE = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
HELLO = '{"stream":"chat","data":"hello"}'
