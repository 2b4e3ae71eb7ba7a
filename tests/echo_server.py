"""`python -m tests.echo_server PORT`: the server's HTTP and WebSocket connections, on any path, with a dialect that
sends every message back. For conformance suites: it takes binary messages, 16 MiB in one message and 65,536 fragments,
and sends nothing of its own accord. With `--compression` it negotiates permessage-deflate, and compresses what it sends
back. It needs what the server needs and nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
from collections.abc import Sequence

import uvloop

from fastcable import listeners
from fastcable._connection import Cable, Connection
from fastcable._deadlines import Deadlines
from fastcable._endpoints import Endpoints
from fastcable._frames import BINARY, DEFLATED, TEXT, encode_frame
from fastcable._handshake import Accept, handshake
from fastcable._heartbeat import Heartbeat
from fastcable._http import HttpProtocol, Site
from fastcable._hub import Group, Hub, Subscriber
from fastcable._request import Request
from fastcable.deflate import deflate
from fastcable.descriptors import raise_descriptor_limit
from fastcable.dialects import Dialect
from fastcable.heartbeat import Clock, beat_seconds
from fastcable.response import Response, error
from fastcable.server import LINGER_SECONDS
from fastcable.settings import Settings

USAGE = "usage: python -m tests.echo_server PORT [--compression]"


class Echo:
    """A dialect without streams."""

    ping = b""
    timed_pings = False
    loses_silently = False

    def opened(self, subscriber: Subscriber) -> None:
        pass

    def received(self, subscriber: Subscriber, text: bytes) -> None:
        assert isinstance(subscriber, Connection)
        self.send(subscriber, TEXT, text)

    def received_binary(self, connection: Connection, data: bytes) -> None:
        self.send(connection, BINARY, data)

    def send(self, connection: Connection, opcode: int, message: bytes) -> None:
        deflated = deflate(message) if connection.deflates else None
        if deflated is None:
            connection.send_frame(encode_frame(opcode, message))
        else:
            connection.send_frame(encode_frame(opcode | DEFLATED, deflated))

    def confirmed(self, subscriber: Subscriber, stream: str, key: object) -> None:
        raise NotImplementedError("an echo has no streams")

    def gap(self, stream: str, key: object, missed: int | None) -> bytes:
        raise NotImplementedError("an echo has no streams")

    def farewell(self, code: int, reason: str) -> bytes | None:
        return None

    def open_group(self, stream: str, key: object) -> Group:
        raise NotImplementedError("an echo has no streams")


class EveryPath(Endpoints):
    def __init__(self, settings: Settings, hub: Hub) -> None:
        super().__init__(settings, hub, cable=True, broadcast=False, demo=False)
        self.compression = settings.compression

    def begin(self, request: Request, peer: object) -> Response | Accept:
        answer = handshake(request.method, request.version, request.headers, request.fields, None,
                           self.compression)
        if isinstance(answer, Accept):
            return answer
        return error(answer.status, answer.message, answer.headers, close=True)


def echo_settings(port: int, compression: bool = False) -> Settings:
    """`port` on both loopback addresses."""
    return Settings(
        port=port, compression=compression, max_message_size=16 << 20, max_fragments=65536,
        ping_interval=0, actioncable_ping_interval=0, idle_timeout=0, max_pending_total=0)


class EchoServer:
    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.loop = loop
        hub = Hub(loop.call_soon)
        closing, lingering = Deadlines(settings.close_timeout), Deadlines(LINGER_SECONDS)
        self.cable = Cable(settings, hub, closing, lingering, loop.time, binary=True)
        self.heartbeat = Heartbeat(self.cable, b"", beat_seconds(settings), settings)
        self.cable.heartbeat = self.heartbeat
        echo: Dialect = Echo()
        subprotocols = ("actioncable", "actioncable+pong", "actioncable+stock", "actioncable+stock+pong")
        self.site = Site(
            settings, loop.time, lingering, self.cable, echo, sys.maxsize // 2, 0, dict.fromkeys(subprotocols, echo))
        self.endpoints = EveryPath(settings, hub)
        self.queues = (self.site.handshakes, self.site.keepalives, lingering, closing)
        self._listening: list[asyncio.Server] = []

    async def start(self) -> int:
        """Listen; the port. Raises `listeners.CannotListen`."""
        sockets = listeners.open_sockets(self.settings)
        protocol = functools.partial(HttpProtocol, self.site, self.endpoints)
        for sock in sockets:
            self._listening.append(await self.loop.create_server(protocol, sock=sock, backlog=self.settings.backlog))
        self._clock = Clock(self.loop, self.heartbeat, self.queues)
        return int(sockets[0].getsockname()[1])

    async def stop(self) -> None:
        for server in self._listening:
            server.close()
        self._clock.stop()
        for client in self.cable.everybody():
            client.abort()
        for protocol in list(self.site.requests):
            protocol.abort()
        await asyncio.sleep(0)


async def serve(port: int, compression: bool) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = EchoServer(echo_settings(port, compression), loop)
    print(f"echoes on ws://127.0.0.1:{await server.start()}/", flush=True)
    await stopped.wait()
    await server.stop()


def main(arguments: Sequence[str]) -> int | str:
    options = [argument for argument in arguments if argument.startswith("-")]
    ports = [argument for argument in arguments if not argument.startswith("-")]
    if options and options != ["--compression"]:
        return USAGE
    if len(ports) != 1 or not ports[0].isdecimal():
        return USAGE
    raise_descriptor_limit()
    try:
        uvloop.run(serve(int(ports[0]), bool(options)))
    except listeners.CannotListen as problem:
        return f"echo_server: {problem}"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
