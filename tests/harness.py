"""What the tests share: servers to talk to, and a client that does exactly what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Self, TypeVar

import uvloop

from fastcable._connection import Connection
from fastcable.server import Server
from fastcable.settings import Settings

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds after which something that must happen has not happened."""

UPGRADE = (
    b"GET /cable HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CABLE_UPGRADE = UPGRADE[:-2] + b"Sec-WebSocket-Protocol: actioncable-v1-json, actioncable-unsupported\r\n\r\n"
"""As @rails/actioncable does."""
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Reachable:
    """A server that is reached by its port."""

    port: int

    def post(self, body: object, **headers: str) -> tuple[int, Any]:
        return post(self.port, body, **headers)

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Any request; status, headers and content of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def connect(self, *streams: str, **options: Any) -> Client:
        """A WebSocket client, subscribed to these streams."""
        client = Client(self.port, **options)
        client.upgrade()
        for stream in streams:
            client.subscribe(stream)
        return client


class LocalServer(Reachable):
    """A server on a uvloop loop in a thread of this process, so that a test can look into it: `call` runs a function
    there. With `ticking=False` its clock stands still, and the test beats it."""

    def __init__(self, *, ticking: bool = True, **options: Any) -> None:
        self.settings = Settings(**{"port": 0, "host": ("127.0.0.1",), **options})
        self.loop = uvloop.new_event_loop()
        self._ticking = ticking
        self._thread = threading.Thread(target=self.loop.run_forever, name="server")

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.run(self._stop())
        self._end()

    async def _start(self) -> None:
        self.server = Server(self.settings, self.loop)
        await self._listen()
        if not self._ticking:
            assert self.server._clock is not None
            self.server._clock.stop()
        self.address = self.server.sockets[0].getsockname()
        if isinstance(self.address, tuple):
            self.port = int(self.address[1])

    async def _listen(self) -> None:
        await self.server.start()

    async def _stop(self) -> None:
        self.server.abort()
        await self.server.stop()
        await asyncio.sleep(0)

    def _end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in the server's thread; what it returns or raises."""
        result: Future[T] = Future()

        def work() -> None:
            try:
                result.set_result(function(*arguments))
            except BaseException as error:
                result.set_exception(error)

        self.loop.call_soon_threadsafe(work)
        return result.result(PATIENCE)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition, looked at in the server's thread in each turn of its loop, is true."""

        async def wait() -> None:
            while not condition():  # noqa: ASYNC110 (nobody tells of these)
                await asyncio.sleep(0.001)

        self.run(wait())

    def beat(self, seconds: float) -> None:
        """Let so much time pass for connections (of a server that is not ticking)."""
        for _ in range(round(seconds / self.server.heartbeat.seconds)):
            self.call(self.server.heartbeat.beat)

    def expire(self, now: float) -> None:
        """Tell the deadlines that it is `now` (of a server that is not ticking)."""

        def expire() -> None:
            for queue in self.server._queues:
                for item in queue.expired(now):
                    item.deadline_passed(queue)

        self.call(expire)

    def connection(self) -> Connection:
        """The server's side of the one open connection."""
        (connection,) = self.call(self.server.cable.oldest, 2)
        return connection

    def wait_for_connections(self, count: int) -> None:
        """Wait until there are exactly so many WebSocket connections, and nothing is left of others."""
        self.wait_until(lambda: self.server.cable.connections == count and not self.server.requests)

    def stall(self, stream: str, size: int = 1 << 20) -> None:
        """Fill the socket of the one connection, which is subscribed to `stream`, with one message larger than the
        kernel's buffers (the client needs a `receive_buffer`): everything else waits in the outbox until it is read."""
        self.publish(stream, "x" * size)
        connection = self.connection()
        self.wait_until(lambda: self.server.hub.idle and connection.outbox is not None)

    def publish(self, stream: str, data: object) -> None:
        """Broadcast from within; delivered in the next turn of the loop."""
        self.call(self.server.hub.publish, stream, json.dumps(data).encode())



Serve = Callable[..., LocalServer]
"""The fixture `serve`."""


class UnixServer:
    """A server that is reached by its Unix socket."""

    path: str

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and decoded answer."""
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE)
        try:
            connection.sock.connect(self.path)
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def wait_until_ready(self, status: int = 200) -> None:
        """Wait until /health/ready answers with this status."""
        end = time.monotonic() + PATIENCE
        while (answer := self.ask("GET", "/health/ready"))[0] != status:
            assert time.monotonic() < end, answer
            time.sleep(0.02)

    def publish(self, stream: str, data: object) -> int:
        """The status of the answer."""
        return self.ask("POST", "/_broadcast", {"stream": stream, "data": data})[0]


class ServerProcess(Reachable):
    """`fastcable serve` as a process of its own; `line` is its start line. `ulimit` is given to the shell's command of
    that name before."""

    def __init__(
        self, *arguments: str, port: int = 0, env: Mapping[str, str] | None = None, ulimit: str = ""
    ) -> None:
        shell = ["sh", "-c", f'ulimit {ulimit} && exec "$@"', "sh"] if ulimit else []
        serve = [sys.executable, "-m", "fastcable", "serve", "--host", "127.0.0.1", "--port", str(port)]
        self._start([*shell, *serve, *arguments], env, r"listens on http://127\.0\.0\.1:(\d+)")

    def _start(
        self, command: Sequence[str], env: Mapping[str, str] | None, pattern: str, descriptors: Sequence[int] = ()
    ) -> None:
        """Start it with these descriptors of ours, and wait for the line that matches the pattern, which may name its
        port."""
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(env or {})}, pass_fds=descriptors)
        self.log: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(pattern, line):
                self.port = int(found[1]) if found.re.groups else 0
                self.line = line
                break
        else:
            raise RuntimeError(f"the server did not start: {''.join(self.log)}")
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return code



class ApplicationProcess(ServerProcess):
    """An ASGI application, "module:name", under `uvicorn` or `hypercorn`, as a process of its own."""

    COMMANDS: ClassVar = {
        "uvicorn": ("--port", "0", "--no-access-log"),
        "hypercorn": ("--bind", "127.0.0.1:0", "--graceful-timeout", "0", "--workers", "0"),
    }

    def __init__(
        self, server: str, application: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        command = [sys.executable, "-m", server, application, *self.COMMANDS[server], *arguments]
        self._start(command, env, r"[Rr]unning on http://127\.0\.0\.1:(\d+)")


Spawn = Callable[..., ServerProcess]
"""The fixture `spawn`."""


def post(port: int, body: object, path: str = "/_broadcast", **headers: str) -> tuple[int, Any]:
    """POST to /_broadcast; status and decoded answer. `body` as it is if bytes, else as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


class Client:
    """A WebSocket client on a blocking socket that sends what it is told, right or wrong, and reads when told."""

    def __init__(self, port: int | str | socket.socket, *, receive_buffer: int | None = None) -> None:
        """`port` of 127.0.0.1, or the path of a Unix socket, or what is connected already."""
        self._buffer = b""
        if isinstance(port, socket.socket):
            self.socket = port
            return
        self.socket = socket.socket(socket.AF_UNIX if isinstance(port, str) else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        if isinstance(port, str):
            self.socket.connect(port)
        else:
            self.socket.connect(("127.0.0.1", port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Hang up without a word: RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def upgrade(self, request: bytes = UPGRADE) -> bytes:
        """Send the opening handshake; the head of the answer, which must be a 101."""
        self.socket.sendall(request)
        head = self.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return head

    # Sending

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.send(frame(opcode, payload, fin=fin))

    def command(self, **fields: object) -> None:
        self.send_frame(TEXT, json.dumps(fields).encode())

    def subscribe(self, stream: str) -> None:
        self.command(type="subscribe", stream=stream)
        while (answer := self.receive()) == {"type": "ping"}:
            pass
        assert answer == {"type": "subscribed", "stream": stream}

    def unsubscribe(self, stream: str) -> None:
        self.command(type="unsubscribe", stream=stream)

    # Receiving

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(mark)
        return head + mark

    def read_frame(self) -> tuple[int, bytes]:
        """The next frame: first byte's low four bits, payload. EOFError at the end, and for a server's frames only."""
        while True:
            if len(self._buffer) >= 2:
                head, length = 2, self._buffer[1]
                assert length < 128, "a masked frame from the server"
                if length == 126:
                    head, length = 4, int.from_bytes(self._buffer[2:4], "big") if len(self._buffer) >= 4 else 1 << 62
                elif length == 127:
                    head, length = 10, int.from_bytes(self._buffer[2:10], "big") if len(self._buffer) >= 10 else 1 << 62
                if len(self._buffer) >= head + length:
                    assert self._buffer[0] & 0xF0 == 0x80, "a fragment or reserved bits from the server"
                    opcode, payload = self._buffer[0] & 15, self._buffer[head : head + length]
                    self._buffer = self._buffer[head + length :]
                    return opcode, payload
            self._fill()

    def receive(self) -> Any:
        """The next text frame, decoded; no other kind of frame may come."""
        opcode, payload = self.read_frame()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    def expect(self, *messages: object) -> None:
        for message in messages:
            assert self.receive() == message

    def read_close(self) -> tuple[int, str]:
        """The close frame that must come next, and the end of the connection after it."""
        opcode, payload = self.read_frame()
        assert opcode == CLOSE, (opcode, payload)
        code = int.from_bytes(payload[:2], "big") if payload else 1005
        return code, payload[2:].decode()

    def read_end(self) -> tuple[int, str]:
        """The close frame that must come next, and behind it nothing but the server's FIN."""
        ending = self.read_close()
        self.read_eof()
        return ending

    def read_cut(self) -> None:
        """The server must cut the connection off, without a close frame."""
        assert not self._buffer
        with contextlib.suppress(ConnectionResetError):
            assert self.socket.recv(1) == b""

    def read_eof(self) -> None:
        """The server's FIN must come next."""
        assert not self._buffer
        assert self.socket.recv(1) == b""

    def _fill(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise EOFError("the server closed the connection")
        self._buffer += data


def children(pid: int) -> list[int]:
    """The processes that one has started, in order of their ids."""
    found = []
    for each in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if each.isdigit():
                with open(f"/proc/{each}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                if parent == str(pid) and state != "Z":
                    found.append(int(each))
    return sorted(found)


def until(condition: Callable[[], T]) -> T:
    """Wait until a condition is true; what it was."""
    end = time.monotonic() + PATIENCE
    while not (met := condition()):
        if time.monotonic() > end:
            raise TimeoutError("what must happen has not happened")
        time.sleep(0.01)
    return met


def message(stream: str, data: object) -> dict[str, object]:
    return {"type": "message", "stream": stream, "data": data}


def subscribed(stream: str) -> dict[str, object]:
    return {"type": "subscribed", "stream": stream}


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes = b"\x01\x02\x03\x04", rsv: int = 0) -> bytes:
    """A client's frame, written out by hand (RFC 6455 §5.2)."""
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size) if size < 65536 else (
        b"\xff" + struct.pack("!Q", size))
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([(fin << 7) | (rsv << 4) | opcode]) + length + mask + masked
